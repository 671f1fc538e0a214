"""The law suite: it finds every registered method by itself and holds it to the laws that its record names.

Hypothesis draws shapes, numbers of experts and seeds. A law in a method's `exempt` must really fail for some input.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_merge3h import LowRank, get_method, list_methods
from hf_merge3h.apply import gather, merge_stack
from hf_merge3h.linalg.random import mask_keys
from hf_merge3h.registry import LAWS

METHODS = [method.name for method in list_methods()]
SPECTRAL = [method.name for method in list_methods() if method.matrix_only]
#: Methods without a float statistic that is summed in an order of the device's choosing.
BITWISE = [
    "linear", "rewarded_soup", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della_linear", "della",
    "breadcrumbs", "breadcrumbs_ties", "magmax", "consensus_ta", "consensus_ties", "ram", "ram_plus", "nearswap",
]  # fmt: skip


def obeying(law):
    return [method.name for method in list_methods() if law in method.laws]


@st.composite
def problems(draw, name, *, matrix=False):
    """A method, experts [task, batch, *shape] and a base, of drawn shapes."""
    method = get_method(name)
    low, high = method.experts
    n = draw(st.integers(low, min(high or 4, 4)))
    if matrix or method.matrix_only:
        shape = (draw(st.integers(5, 9)), draw(st.integers(5, 9)))
    else:
        shape = draw(st.sampled_from([(), (1,), (6,), (4, 1), (1, 5), (4, 6), (3, 2, 2, 2)]))
    batch = draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    vectors = torch.randn(n, batch, *shape, generator=generator)
    return method, vectors, torch.randn(batch, *shape, generator=generator)


def merge(method, vectors, base, *, weights=None, keys=None, names=None, **parameters):
    """The method as the engine calls it."""
    n = len(vectors)
    batch = vectors.shape[1] if isinstance(vectors, torch.Tensor) else vectors[0].shape[0]
    names = names or tuple(f"layers.{i}.q_proj.weight" for i in range(batch))
    bound = method.bind(parameters, n)
    values = method.bind_weights(weights, n)
    if keys is None:
        keys = mask_keys(0, [f"role{t}" for t in range(n)], names)
    supplied = {
        "base": base,
        "keys": keys,
        "names": names,
        "noise": torch.zeros(batch),
        "statistics": gather(method, bound, n, [(names, vectors, True)]),
    }
    return merge_stack(method, vectors, torch.tensor(values), bound, supplied, spectral=True)


def dense(result):
    return result.dense() if isinstance(result, LowRank) else result


def close(left, right, tolerance=1e-5):
    left, right = dense(left), dense(right)
    assert left.shape == right.shape
    scale = max(right.abs().max().item() if right.numel() else 0.0, 1e-30)
    return (left - right).abs().max().item() <= tolerance * scale if right.numel() else True


def copies_of(method, vectors):
    """The first expert at all places, and the weights under which their sum is that expert."""
    same = vectors[:1].expand_as(vectors).clone()
    return same, [1 / len(vectors)] * len(vectors) if method.weighted else None


# -- what every method does -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@given(data=st.data())
def test_shape_dtype_and_inputs_are_kept_and_results_repeat(name, data):
    method, vectors, base = data.draw(problems(name))
    before = vectors.clone(), base.clone()
    first, second = dense(merge(method, vectors, base)), dense(merge(method, vectors, base))
    assert first.shape == vectors.shape[1:]
    assert first.dtype == torch.float32
    assert first.device == vectors.device
    assert torch.equal(first, second)
    assert torch.equal(vectors, before[0])
    assert torch.equal(base, before[1])
    assert torch.isfinite(first).all()


@pytest.mark.parametrize("name", METHODS)
def test_results_do_not_share_memory_with_the_experts(name):
    method = get_method(name)
    vectors = torch.randn(method.experts[0], 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = vectors.clone()
    dense(merge(method, vectors, torch.zeros(1, 8, 8), **({"density": 1} if "density" in defaults(method) else {})))[
        :
    ] = 7
    assert torch.equal(vectors, before)


def defaults(method):
    return {parameter.name: parameter.default for parameter in method.parameters}


@pytest.mark.parametrize("name", METHODS)
def test_an_exemption_names_a_reason(name):
    method = get_method(name)
    assert set(method.exempt) <= set(LAWS)
    assert all(len(reason) > 10 for reason in method.exempt.values())


# -- the laws ---------------------------------------------------------------------------------------------------------


def identity(method, vectors, base, tolerance=1e-5):
    same, weights = copies_of(method, vectors)
    return close(merge(method, same, base, weights=weights), vectors[0], tolerance)


def permutation(method, vectors, base, tolerance=1e-5, **parameters):
    n = len(vectors)
    weights = [0.5 + 0.25 * t for t in range(n)]
    if method.unit_weights:
        weights = [weight / sum(weights) for weight in weights]
    turned = torch.arange(n).roll(1).tolist()
    moved = [weights[t] for t in turned]
    forward = merge(method, vectors, base, weights=weights if method.weighted else None, **parameters)
    other = merge(method, vectors[turned], base, weights=moved if method.weighted else None, **parameters)
    return close(other, forward, tolerance)


def homogeneity(method, vectors, base, tolerance=1e-5, factors=(0.25, 8.0, -2.0)):
    wanted = dense(merge(method, vectors, base))
    return all(close(merge(method, vectors * c, base), wanted * c, tolerance) for c in factors)


def rotation(method, vectors, base, tolerance=2e-4, *, seed=0, right=True, **parameters):
    """Whether changes of orthonormal basis (of the left one alone unless `right`) commute with the method."""
    generator = torch.Generator().manual_seed(seed)
    turns = [torch.linalg.qr(torch.randn(side, side, generator=generator)).Q for side in vectors.shape[-2:]]
    turn = turns[1] if right else torch.eye(vectors.shape[-1])
    wanted = turns[0] @ dense(merge(method, vectors, base, **parameters)) @ turn
    return close(merge(method, turns[0] @ vectors @ turn, base, **parameters), wanted, tolerance)


@pytest.mark.parametrize("name", obeying("identity"))
@given(data=st.data())
def test_identity(name, data):
    method, vectors, base = data.draw(problems(name))
    assert identity(method, vectors, base, 2e-5 if method.matrix_only else 1e-6)


@pytest.mark.parametrize("name", [n for n in METHODS if "density" in defaults(get_method(n)) and n not in SPECTRAL])
@given(data=st.data())
def test_identity_holds_at_density_1(name, data):
    method, vectors, base = data.draw(problems(name))
    same, weights = copies_of(method, vectors)
    assert close(merge(method, same, base, weights=weights, density=1), vectors[0], 1e-6)


@pytest.mark.parametrize("name", obeying("permutation"))
@given(data=st.data())
def test_permutation(name, data):
    method, vectors, base = data.draw(problems(name))
    assert permutation(method, vectors, base, 1e-4 if method.matrix_only else 1e-5)


@pytest.mark.parametrize("name", [method.name for method in list_methods() if method.random])
@given(data=st.data())
def test_permutation_holds_where_masks_move_with_the_experts(name, data):
    method, vectors, base = data.draw(problems(name))
    names = tuple(f"w{i}" for i in range(vectors.shape[1]))
    keys = mask_keys(0, [f"role{t}" for t in range(len(vectors))], names)
    forward = merge(method, vectors, base, keys=keys)
    assert close(merge(method, vectors.flip(0), base, keys=keys.flip(0)), forward, 1e-4 if method.matrix_only else 1e-5)


@pytest.mark.parametrize("name", obeying("homogeneity"))
@given(data=st.data())
def test_homogeneity(name, data):
    method, vectors, base = data.draw(problems(name))
    assert homogeneity(method, vectors, base, 1e-4 if method.matrix_only else 1e-5)


@pytest.mark.parametrize("name", obeying("zeros"))
@given(data=st.data())
def test_zeros(name, data):
    method, vectors, base = data.draw(problems(name))
    assert not dense(merge(method, torch.zeros_like(vectors), base)).any()


@pytest.mark.parametrize("name", obeying("batched"))
@given(data=st.data())
def test_batched_is_looped(name, data):
    method, vectors, base = data.draw(problems(name))
    batch = vectors.shape[1]
    names = tuple(f"layers.{i}.q_proj.weight" for i in range(batch))
    options = {"outliers": "none", "gamma": 0.0} if method.prepare and method.matrix_only else {}
    whole = dense(merge(method, vectors, base, names=names, **options))
    for i in range(batch):
        one = dense(merge(method, vectors[:, i : i + 1], base[i : i + 1], names=names[i : i + 1], **options))[0]
        assert torch.equal(one, whole[i]) if name in BITWISE else close(one, whole[i])


def factors_of(vectors, data, rank=2):
    """Random LowRank experts of the same batch and shape."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
    _, batch, m, n = vectors.shape
    return tuple(
        LowRank(torch.randn(batch, m, rank, generator=generator), torch.randn(batch, rank, n, generator=generator))
        for _ in vectors
    )


@pytest.mark.parametrize("name", obeying("low_rank"))
@given(data=st.data())
def test_low_rank_is_dense(name, data):
    method, vectors, base = data.draw(problems(name, matrix=True))
    experts = factors_of(vectors, data)
    options = {"granularity": "channel"} if "granularity" in defaults(method) else {}
    wanted = merge(method, torch.stack([expert.dense() for expert in experts]), base, **options)
    assert close(merge(method, experts, base, **options), wanted, 1e-4 if method.matrix_only else 2e-5)


@pytest.mark.parametrize("name", [n for n in METHODS if "rescale" in defaults(get_method(n)) and n not in SPECTRAL])
@given(data=st.data())
def test_low_rank_is_dense_where_sums_are_restored(name, data):
    """Dropping has no form in factors: they are multiplied out, and the restored sums are the matrices'."""
    method, vectors, base = data.draw(problems(name, matrix=True))
    experts = factors_of(vectors, data)
    options = {"rescale": "l1", "density": data.draw(st.sampled_from([0.2, 0.5, 0.9]))}
    wanted = merge(method, torch.stack([expert.dense() for expert in experts]), base, **options)
    assert close(merge(method, experts, base, **options), wanted, 1e-6)


@pytest.mark.parametrize("name", obeying("gauge"))
@given(data=st.data())
def test_gauge(name, data):
    method, vectors, base = data.draw(problems(name, matrix=True))
    experts = factors_of(vectors, data)
    turn = torch.tensor([[2.0, 1.0], [-1.0, 0.5]])  # determinant 2: well conditioned
    other = tuple(LowRank(expert.left @ turn, torch.linalg.inv(turn) @ expert.right) for expert in experts)
    assert close(merge(method, other, base), merge(method, experts, base), 1e-4 if method.matrix_only else 2e-5)


@pytest.mark.parametrize("name", obeying("rotation"))
@given(data=st.data())
def test_rotation(name, data):
    method, vectors, base = data.draw(problems(name))
    assert rotation(method, vectors, base, seed=data.draw(st.integers(0, 2**20)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("r_tsvm", {"gamma": 0.0, "outliers": "none"}),
        ("r_tsvm", {"gamma": 0.0, "granularity": "layer"}),
        ("knots_ties", {"right": False}),
        ("knots_dare", {"right": False}),
    ],
)
def test_rotation_holds_where_the_exemption_says_so(name, options):
    method = get_method(name)
    assert all(rotation(method, *each, **options) for each in counterexamples(method, 3))


# -- exemptions are real ----------------------------------------------------------------------------------------------


def counterexamples(method, n_experts):
    """Plain inputs of several sizes, among which one must break a law that is in `exempt`."""
    generator = torch.Generator().manual_seed(1)
    for size in (1.0, 1e-3, 1e-6):
        vectors = torch.randn(n_experts, 1, 12, 10, generator=generator) * size
        yield vectors, torch.randn(1, 12, 10, generator=generator)


BREAKABLE = {"identity": identity, "permutation": permutation, "homogeneity": homogeneity, "rotation": rotation}
#: Parameters under which a law fails that holds under the defaults.
BROKEN_BY = {"slerp": {"t": 0.3}}


@pytest.mark.parametrize(
    ("name", "law", "parameters"),
    [(method.name, law, BROKEN_BY.get(method.name, {})) for method in list_methods() for law in method.exempt],
    ids=str,
)
def test_a_law_that_is_exempt_fails(name, law, parameters):
    method = get_method(name)
    n = max(method.experts[0], min(3, method.experts[1] or 3))
    assert not all(BREAKABLE[law](method, *each, **parameters) for each in counterexamples(method, n))


def test_slerp_depends_on_the_order_unless_half_way():
    slerp = get_method("slerp")
    vectors = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    assert not close(slerp(vectors, t=0.3), slerp(vectors.flip(0), t=0.3))
    assert close(slerp(vectors, t=0.3), slerp(vectors.flip(0), t=0.7))
    assert close(slerp(vectors), slerp(vectors.flip(0)))
