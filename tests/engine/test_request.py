"""What is checked before any model is opened."""

from __future__ import annotations

import pytest

from hf_merge3h import RequestError
from hf_merge3h.engine.request import make_request, name_experts, resolve_device, resolve_dtype, weights_in_order


def request(experts, **options):
    defaults = {"method": "ties", "weights": None, "parameters": {}, "seed": 0, "device": "cpu"}
    return make_request(experts, **{**defaults, **options})


def test_roles_from_a_list() -> None:
    roles, _ = name_experts(["helpful", "me/model", "./folder", "base"])
    assert roles == ["helpfulness", "expert_2", "expert_3", "expert_4"]
    assert name_experts(["my-adapter", "0", "merged", "a b"])[0] == ["my-adapter", "0", "expert_3", "a b"]


@pytest.mark.parametrize(
    ("experts", "weights"),
    [
        (["my-adapter", "merged"], {"my-adapter": 1, "merged": 2}),
        (["me/one", "me/two"], {"me/one": 1, "me/two": 2}),
        (["helpful", "honest"], {"helpfulness": 1, "honest": 2}),
        ({"helpful": "x1", "honest": "x2"}, {"x1": 1, "honesty": 2}),
    ],
)
def test_weights_by_role_alias_or_name(experts, weights) -> None:
    made = request(experts, weights=weights)
    by_source = dict(zip(made.sources, made.weights, strict=True))
    first, second = list(experts.values()) if isinstance(experts, dict) else experts
    assert (by_source[first], by_source[second]) == (1.0, 2.0)


def test_numbers_of_numpy_are_numbers() -> None:
    import numpy as np

    made = request(["a", "b"], weights=np.array([1.0, 2.0]), seed=np.int64(3), parameters={"density": np.float32(0.5)})
    assert made.weights == (1.0, 2.0)
    assert made.seed == 3
    for wrong in (np.array(1.0), np.ones((2, 2)), {1.0, 2.0}):
        with pytest.raises(RequestError, match="weights="):
            request(["a", "b"], weights=wrong)


def test_aliases_become_roles_and_everything_is_sorted_with_them() -> None:
    made = request(
        {"honest": "b", "helpful": "a", "harmless": "c"},
        weights={"honesty": 2, "helpful": 1, "harmless": 3},
        parameters={"density": [0.2, 0.1, 0.3]},
    )
    assert made.roles == ("harmlessness", "helpfulness", "honesty")
    assert made.sources == ("c", "a", "b")
    assert made.weights == (3.0, 1.0, 2.0)
    assert made.parameters["density"] == (0.3, 0.1, 0.2)


def test_methods_that_depend_on_the_order_keep_it() -> None:
    assert request({"b": 1, "a": 2}, method="slerp").roles == ("b", "a")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("abc", "weights='abc'"),
        ({"a": 1}, "lacks 'b'"),
        ({"a": 1, "b": 1, "helpful": 1}, "'helpful', which is no expert"),
        ([1, 2, 3], "expected 2 numbers"),
        ([1, "x"], "numbers"),
    ],
)
def test_weights_that_do_not_fit(weights, message) -> None:
    with pytest.raises(RequestError, match=message):
        request({"a": 1, "b": 2}, weights=weights)


def test_weights_by_role_follow_the_experts() -> None:
    assert weights_in_order({"b": 1, "a": 2}, ["a", "b"], ["x", "y"]) == [2, 1]


@pytest.mark.parametrize("role", ["", "merged", "x" * 101, "a\nb", 3])
def test_roles_that_cannot_be(role) -> None:
    with pytest.raises(RequestError, match="role"):
        request({role: "a"})


def test_devices() -> None:
    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(RequestError, match=r"device='meta': expected a device that this machine has"):
        resolve_device("meta")
    with pytest.raises(RequestError, match="device='gpu'"):
        resolve_device("gpu")


def test_dtypes() -> None:
    import torch

    assert resolve_dtype("bfloat16") is torch.bfloat16
    assert resolve_dtype("torch.float16") is torch.float16
    with pytest.raises(RequestError, match="dtype='fp4'"):
        resolve_dtype("fp4")
