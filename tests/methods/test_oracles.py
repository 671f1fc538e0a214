"""Every registered method against its oracle, over shapes, parameters and drawn numbers."""

import importlib.util
from itertools import cycle, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_merge3h import get_method, list_methods
from hf_merge3h.apply import gather, merge_stack
from hf_merge3h.linalg.random import mask_keys

from .. import oracles

ORACLES = dict(oracles.ORACLES)
if importlib.util.find_spec("tests.oracles_spectral"):
    from .. import oracles_spectral

    ORACLES |= oracles_spectral.ORACLES
OWN = list(oracles.ORACLES)

SHAPES = [(), (1,), (5, 1), (4, 5), (2, 2, 1, 3)]

#: Values to try beside the defaults, parameter by parameter; what stands here is tried wherever a method has it.
VALUES = {
    "density": [0.3, 1.0, "each"],
    "gamma": [0.3, 0.0],
    "epsilon": [0.5, 0.0],
    "rescale": ["l1", "none"],
    "normalize": [True, False],
    "normalize_weights": [False],
    "scale": [0.7, -1.5],
    "trim_scope": ["model"],
    "election": ["count"],
    "filter_wise": [True],
    "nuslerp_flatten": [False],
    "t": [0.0, 0.3, 1.0],
    "max_iter": [1, 50],
    "tol": [0.1],
    "eps": [0.1],
    "select_topk": [0.4],
    "equal_below": [1e9],
    "cosine_floor": [20.0],
    "mask_lambda": [0.0, 1.5],
    "min_experts": [1, "all"],
    "threshold": [0.5],
    "r": [0.5],
    "alpha": [2.0],
}


def test_every_method_has_an_oracle_and_every_oracle_a_method():
    assert {method.name for method in list_methods()} == set(ORACLES)


def run(method, vectors, weights, parameters, base):
    """The method in float32 over a batch of one, and the oracle in float64 with the same masks."""
    n_experts = len(vectors)
    bound = method.bind(parameters, n_experts)
    weights = method.bind_weights(weights, n_experts)
    method.check_request(bound, weights)
    keys = mask_keys(3, [f"role{t}" for t in range(n_experts)], ["w"])
    stack = vectors.unsqueeze(1)
    supplied = {
        "base": base.unsqueeze(0),
        "keys": keys,
        "statistics": gather(method, bound, n_experts, [(("w",), stack, True)]),
    }
    got = merge_stack(method, stack, torch.tensor(weights), bound, supplied, spectral=True)[0]
    wanted = ORACLES[method.name](vectors.double(), list(weights), base=base.double(), keys=keys[:, 0], **bound)
    return got, wanted


def agree(got, wanted):
    assert got.shape == wanted.shape
    torch.testing.assert_close(got.double(), wanted, rtol=2e-5, atol=2e-6 * max(1.0, wanted.abs().max().item()))


def counts(method):
    low, high = method.experts
    return [n for n in (1, 2, 4) if n >= low and (high is None or n <= high)]


def weightings(method, n):
    if not method.weighted:
        return [None]
    uneven = [0.5 + 0.25 * t for t in range(n)]
    return [None, [w / sum(uneven) for w in uneven] if method.unit_weights else uneven]


def variants(method):
    """The defaults, then each other value alone, then all of the first ones at once."""
    yield {}
    own = [parameter.name for parameter in method.parameters if parameter.name in VALUES]
    for name in own:
        for value in VALUES[name]:
            yield {name: value}
    if own:
        yield {name: VALUES[name][0] for name in own if name != "trim_scope"}
    if "nuslerp_row_wise" in {parameter.name for parameter in method.parameters}:
        yield {"nuslerp_flatten": False, "nuslerp_row_wise": True}


@pytest.mark.parametrize("name", OWN)
def test_method_equals_its_oracle(name):
    method = get_method(name)
    for shape, n in product(SHAPES, counts(method)):
        generator = torch.Generator().manual_seed(len(shape) * 10 + n)
        vectors = torch.randn(n, *shape, generator=generator)
        base = torch.randn(shape, generator=generator)
        for parameters, weights in zip(variants(method), cycle(weightings(method, n)), strict=False):
            spelt = {"each": tuple(0.3 + 0.1 * t for t in range(n)), "all": n}
            parameters = {k: spelt.get(v, v) for k, v in parameters.items()}
            got, wanted = run(method, vectors, weights, parameters, base)
            agree(got, wanted)


@pytest.mark.parametrize("name", OWN)
@given(data=st.data())
def test_method_equals_its_oracle_where_numbers_repeat(name, data):
    """Small multiples of 1/4: zeros, equal magnitudes and sums that cancel, all exact in float32."""
    method = get_method(name)
    n = data.draw(st.sampled_from(counts(method)))
    shape = data.draw(st.sampled_from([(1,), (9,), (3, 4), (2, 3, 2)]))
    size = n * torch.Size(shape).numel()
    numbers = data.draw(st.lists(st.integers(-4, 4), min_size=size, max_size=size))
    vectors = torch.tensor(numbers).reshape(n, *shape) / 4
    parameters = {"mask_lambda": 0.5} if name.startswith("consensus") else {}
    if name in ("ties", "breadcrumbs", "breadcrumbs_ties", "consensus_ties"):
        parameters["density"] = data.draw(st.sampled_from([0.25, 0.5, 0.75]))
    got, wanted = run(method, vectors, None, parameters, torch.zeros(shape))
    agree(got, wanted)


@pytest.mark.parametrize("name", ["task_arithmetic", "linear", "dare_linear", "breadcrumbs", "consensus_ta"])
def test_negative_weights_are_weights_like_others(name):
    method = get_method(name)
    generator = torch.Generator().manual_seed(0)
    vectors, base = torch.randn(3, 4, 5, generator=generator), torch.zeros(4, 5)
    agree(*run(method, vectors, [1.0, -0.5, 0.25], {}, base))
