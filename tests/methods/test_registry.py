"""The registry: schemas from signatures, and errors that name argument, value, what was expected and what to do."""

from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from hf_merge3h import LowRank, PerExpert, Range, RequestError, get_method, list_methods, method
from hf_merge3h.registry import LAWS, unregister


def error(function, *arguments, **keywords):
    with pytest.raises(RequestError) as caught:
        function(*arguments, **keywords)
    return str(caught.value)


DELTAS = torch.tensor([[1.0, 2.0, -3.0], [4.0, -5.0, 6.0]])


# -- schema -----------------------------------------------------------------------------------------------------------


def test_the_signature_is_the_schema():
    known = {parameter.name: parameter for parameter in get_method("ties").parameters}
    assert list(known) == ["density", "trim_scope", "rescale", "election", "scale", "normalize"]
    assert known["density"].per_expert
    assert known["density"].default == 0.2
    assert known["density"].type is float
    assert known["density"].expected == "a number in (0, 1], or one for each expert"
    assert known["trim_scope"].choices == ("tensor", "model")
    assert known["trim_scope"].expected == "one of tensor, model"
    assert known["normalize"].type is bool
    assert "keys" not in {parameter.name for parameter in get_method("dare_linear").parameters}
    assert get_method("dare_linear").needs == {"keys"}


@pytest.mark.parametrize("name", [each.name for each in list_methods()])
def test_every_record_is_complete(name):
    record = get_method(name)
    assert record.summary.endswith(".")
    for section in ("Args:", "Returns:", "Example:", "Reference:"):
        assert section in record.description
    assert record.paper.startswith(("arXiv:", "doi:", "https://"))
    assert all(parameter.help for parameter in record.parameters)
    assert set(record.bind({})) == {parameter.name for parameter in record.parameters}


def test_defaults_are_those_of_the_papers():
    wanted = {
        "ties": {"density": 0.2, "trim_scope": "tensor", "election": "sum", "scale": 1.0},
        "dare_linear": {"density": 0.5, "scale": 1.0, "normalize": False},
        "della": {"density": 0.5, "epsilon": 0.15},
        "breadcrumbs": {"density": 0.9, "gamma": 0.01},
        "consensus_ta": {"mask_lambda": 0.4, "min_experts": 2},
        "ram_plus": {"threshold": 1e-5, "r": 0.1, "alpha": 0.2},
        "karcher": {"max_iter": 10, "tol": 1e-5},
    }
    for name, values in wanted.items():
        bound = get_method(name).bind({})
        assert {key: bound[key] for key in values} == values


def test_help_comes_from_the_docstring():
    density = get_method("ties").parameters[0]
    assert density.help == "share of the entries, by magnitude, that each expert keeps."


def test_laws_are_listed_where_they_apply():
    assert "rotation" not in get_method("ties").laws
    assert "identity" not in get_method("ties").laws
    assert {"low_rank", "gauge"} <= set(get_method("karcher").laws)
    assert all(set(each.laws) <= set(LAWS) for each in list_methods())


def test_a_method_of_ones_own():
    @method("half", title="Half", paper="https://example.org", family="test", aliases=("semi",))
    def half(
        vectors: Float[Tensor, "task batch *shape"],
        weights: Float[Tensor, "task"],
        *,
        share: Annotated[float | tuple[float, ...], Range(0, 1), PerExpert] = 0.5,
        mode: Literal["a", "b"] = "a",
        cap: Annotated[int | None, Range(1)] = None,
    ) -> Float[Tensor, "batch *shape"]:
        """Halve the first.

        Args:
            share: how much
                of it.
        """
        return vectors[0] * share

    try:
        assert get_method("semi") is get_method("half")
        assert [each.name for each in get_method("half").parameters] == ["share", "mode", "cap"]
        assert get_method("half").parameters[0].help == "how much of it."
        assert get_method("half").parameters[2].optional
        assert torch.equal(get_method("half")(DELTAS), DELTAS[0] / 2)
        with pytest.raises(ValueError, match="registered already"):
            method("semi", title="", paper="", family="")(half)
    finally:
        unregister("half")
    assert "unknown" in error(get_method, "semi")


def test_what_has_no_schema_is_refused():
    with pytest.raises(ValueError, match="no schema"):

        @method("odd", title="", paper="", family="")
        def odd(vectors, weights, *, names_of_things: list = ()):
            """Odd."""

    with pytest.raises(ValueError, match="needs a default"):

        @method("odd", title="", paper="", family="")
        def odder(vectors, weights, *, share: float):
            """Odd."""

    with pytest.raises(ValueError, match="unknown laws"):
        method("odd", title="", paper="", family="", exempt={"gravity": "none here"})(lambda vectors, weights: None)


# -- errors -----------------------------------------------------------------------------------------------------------


def test_names_and_aliases():
    assert get_method("weight_average") is get_method("linear")
    assert error(get_method, "tiez") == "method='tiez': unknown; did you mean 'ties'?"
    assert "choose from linear" in error(get_method, "zzzzzzzz")
    assert "unknown" in error(get_method, None)


def test_unknown_parameters():
    assert error(get_method("ties"), DELTAS, dencity=0.3) == (
        "dencity=0.3: method 'ties' has no such parameter; did you mean 'density'?"
    )
    assert "it takes none" in error(get_method("rewarded_soup"), DELTAS, density=0.3)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("ties", {"density": 1.5}, "density=1.5: expected a number in (0, 1], or one for each expert"),
        ("ties", {"density": 0}, "density=0: expected"),
        ("ties", {"density": float("nan")}, "density=nan: expected"),
        ("ties", {"density": "high"}, "density='high': expected"),
        ("ties", {"density": True}, "density=True: expected"),
        ("ties", {"density": [0.1, 0.2, 0.3]}, "one number for each of the 2 experts"),
        ("ties", {"election": "som"}, "election='som': expected one of sum, count; did you mean 'sum'?"),
        ("ties", {"normalize": 1}, "normalize=1: expected True or False"),
        ("karcher", {"max_iter": 2.5}, "max_iter=2.5: expected"),
        ("ties", {"density": torch.ones(2, 2)}, "density=tensor([1., 1.]): expected"),
        ("ties", {"density": {0.1, 0.2}}, "expected a number in (0, 1]"),
        ("ties", {"election": torch.ones(2)}, "expected one of sum, count"),
        ("slerp", {"t": np.array([0.1, 0.2])}, "t=array([0.1, 0.2]): expected a number in [0, 1]"),
        ("ties", {"scale": float("inf")}, "scale=inf: expected a finite number"),
        ("ties", {"scale": 10**400}, "expected a finite number"),
        ("consensus_ta", {"min_experts": 3}, "min_experts=3: expected an integer in [1, 2]"),
        ("consensus_ties", {"min_experts": 3}, "min_experts=3: expected an integer in [1, 2]"),
        ("ties", {"seed": "x"}, "seed='x': expected an integer"),
        ("dare_linear", {"seed": 1.5}, "seed=1.5: expected an integer"),
        ("dare_linear", {"seed": True}, "seed=True: expected an integer"),
        ("slerp", {"t": -0.1}, "t=-0.1: expected a number in [0, 1]"),
        ("nuslerp", {"nuslerp_row_wise": True}, "nuslerp_flatten=False"),
    ],
)
def test_values_out_of_range(name, parameters, message):
    assert message in error(get_method(name), DELTAS, **parameters)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("ties", [1.0], "2 numbers, one for each expert"),
        ("ties", [1.0, float("nan")], "finite numbers"),
        ("ties", [0.0, 0.0], "at least one weight that is not zero"),
        ("ties", ["a", "b"], "numbers"),
        ("ties", "ab", "numbers"),
        ("ties", 1.0, "2 numbers, one for each expert"),
        ("ties", torch.tensor(1.0), "2 numbers, one for each expert"),
        ("ties", torch.ones(2, 2), "weights=tensor([1., 1.]): expected numbers, one for each expert"),
        ("ties", [np.ones(2), 1.0], "numbers, one for each expert"),
        ("ties", [1e39, 1.0], "finite numbers"),
        ("ties", [10**400, 1.0], "finite numbers"),
        ("ties", [1e-60, 0.0], "at least one weight that is not zero"),
        ("ties", [1.0, -1.0], "sum is not zero; or pass normalize=False"),
        ("linear", [1.0, -1.0], "sum is not zero; or pass normalize=False"),
        ("multislerp", [1.0, -1.0], "or pass normalize_weights=False"),
        ("nuslerp", [1.0, -1.0], "the method divides by it"),
        ("magmax", [1.0, 2.0], "equal weights: the formula of 'magmax' names none; leave them out"),
        ("rewarded_soup", [1.0, 1.0], "add up to 1"),
        ("rewarded_soup", [1.5, -0.5], "preferences"),
        ("karcher", [1.5, -0.5], "no negative weights"),
    ],
)
def test_weights_that_do_not_fit(name, weights, message):
    assert message in error(get_method(name), DELTAS, weights)


def test_numbers_of_experts():
    assert "exactly 2" in error(get_method("slerp"), DELTAS[:1])
    assert "at least 2" in error(get_method("model_stock"), DELTAS[:1])
    assert "exactly 1" in error(get_method("nearswap"), DELTAS)
    assert "base" in error(get_method("arcee_fusion"), DELTAS[:1])


def test_numbers_that_arrays_hold():
    ties = get_method("ties")
    wanted = ties(DELTAS, [1.0, 2.0], density=0.5, scale=2.0)
    for half, two in ((torch.tensor(0.5), torch.tensor(2.0)), (np.array(0.5), np.float32(2.0)), ([0.5], np.array([2]))):
        density = half if not isinstance(half, list) else np.array([0.5, 0.5])
        assert torch.equal(ties(DELTAS, np.array([1, 2]), density=density, scale=two), wanted)
    assert torch.equal(ties(DELTAS, torch.tensor([1.0, 2.0]), density=torch.tensor([0.5, 0.5]), scale=2.0), wanted)
    assert get_method("r_tsvm").bind({"kappa": float("inf")})["kappa"] == float("inf")


def test_errors_stay_on_one_line():
    assert "\n" not in error(get_method("ties"), DELTAS, density=torch.rand(3, 4))
    assert "\n" not in error(get_method("ties"), DELTAS, unknown=torch.rand(3, 4))


def test_vectors_that_are_none():
    assert "floating-point" in error(get_method("ties"), torch.ones(2, 3, dtype=torch.int64))
    assert "LowRank" in error(get_method("ties"), [])
    other = [LowRank.zeros((3, 4)), LowRank.zeros((3, 5))]
    assert "one shape" in error(get_method("ties"), other)
    assert "one matrix for each expert" in error(get_method("ties"), [LowRank.zeros((2, 3, 4))] * 2)
    broken = DELTAS.clone()
    broken[1, 2] = float("nan")
    assert error(get_method("ties"), broken) == "vectors of expert 2=nan: expected finite entries; 1 are not"
    factors = [LowRank(torch.ones(3, 1), torch.full((1, 2), float("inf"))) for _ in range(2)]
    assert "vectors of expert 1=inf: expected finite entries" in error(get_method("ties"), factors)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (torch.zeros(4), "base=(4,): expected a tensor of the experts' shape (3,)"),
        (torch.zeros(1, 3), "base=(1, 3): expected"),
        (torch.zeros(3, dtype=torch.int64), "a floating-point tensor"),
        ([0.0, 0.0, 0.0], "a floating-point tensor of the experts' shape (3,)"),
        (torch.full((3,), float("nan")), "base=nan: expected finite entries"),
    ],
)
def test_bases_that_do_not_fit(base, message):
    assert message in error(get_method("arcee_fusion"), DELTAS[:1], base=base)


# -- forms ------------------------------------------------------------------------------------------------------------


def test_delta_forms():
    linear = get_method("linear")
    assert linear.delta_form({"normalize": True}, [1.0, 2.0])
    assert linear.delta_form({"normalize": False}, [0.25, 0.75])
    assert not linear.delta_form({"normalize": False}, [1.0, 1.0])
    assert get_method("karcher").delta_form is True
    assert get_method("slerp").delta_form is False
    assert [each.name for each in list_methods() if each.weight_form] == ["nuslerp", "multislerp"]


def test_default_weights():
    assert get_method("rewarded_soup").bind_weights(None, 4) == (0.25,) * 4
    assert get_method("task_arithmetic").bind_weights(None, 3) == (1.0,) * 3


def test_factors_in_factors_out_where_the_result_has_that_form():
    experts = [LowRank(torch.ones(4, 1) * t, torch.ones(1, 3)) for t in (1.0, 2.0)]
    merged = get_method("task_arithmetic")(experts)
    assert isinstance(merged, LowRank)
    assert merged.rank == 2
    assert isinstance(get_method("nuslerp")(experts), LowRank)
    assert isinstance(get_method("nuslerp")(experts, nuslerp_flatten=False), Tensor)
    assert isinstance(get_method("ties")(experts), Tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", [each.name for each in list_methods()])
def test_results_have_the_inputs_dtype_and_are_made_in_float32_at_least(name, dtype):
    record = get_method(name)
    n = max(record.experts[0], min(3, record.experts[1] or 3))
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(n, 6, 5, generator=generator).to(dtype)
    base = {"base": torch.randn(6, 5, generator=generator).to(dtype)} if "base" in record.needs else {}

    def dense(result):
        assert result.dtype == dtype or dtype != result.dtype == torch.float32
        return result.dense() if isinstance(result, LowRank) else result

    found = record(vectors, **base)
    assert found.dtype == dtype
    if dtype != torch.float64:
        wanted = record(vectors.float(), **{key: value.float() for key, value in base.items()})
        assert torch.equal(dense(found), dense(wanted.to(dtype=dtype)))
    factors = [LowRank(vector[:, :2], vector[:2]) for vector in vectors]
    assert record(factors, **base).dtype == dtype
