"""Tensors that are merged part by part: the same as whole ones, with compiled loops and without."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_merge3h import get_method
from hf_merge3h.engine import walk
from hf_merge3h.engine.measures import TensorReport
from hf_merge3h.linalg import blocks, native
from hf_merge3h.registry import Parts
from tests.engine.models import METHODS, ROLES, expert_count, quiet
from tests.engine.recipes import family, recipe, run, weights

IN_READINGS = [
    ("dare_linear", {"rescale": "l1"}),
    ("dare_ties", {"rescale": "l1", "density": (0.2, 0.5, 1.0)}),
    ("della", {"rescale": "l1", "density": (0.2, 0.5, 1.0)}),
    ("della_linear", {"rescale": "none"}),
    ("breadcrumbs", {"density": (0.3, 0.9, 1.0), "gamma": (0.0, 0.1, 0.2)}),
    ("breadcrumbs_ties", {"density": 0.5, "gamma": 0.05}),
    ("sce", {"select_topk": 0.3, "equal_below": 1e-6}),
    ("ties", {"density": (0.1, 0.5, 1.0), "election": "count"}),
    ("ties", {"density": (0.1, 0.5, 1.0), "rescale": "l1"}),
    ("ties", {"density": 0.3, "trim_scope": "model", "rescale": "l1"}),
    ("breadcrumbs", {"density": (0.3, 0.9, 1.0), "gamma": (0.0, 0.1, 0.2), "rescale": "l1"}),
    ("breadcrumbs_ties", {"density": 0.5, "gamma": 0.05, "rescale": "l1"}),
    ("model_stock", {"cosine_floor": 1e-6}),
    ("model_stock", {"filter_wise": True}),
    ("slerp", {"t": 0.3}),
]


PLAIN = [(name, {}) for name in METHODS if get_method(name).parts is not None]


@pytest.mark.parametrize(
    ("method", "parameters", "dtype"),
    [
        *((*each, torch.bfloat16) for each in (*PLAIN, *IN_READINGS)),
        *(("sce", {"select_topk": 0.5}, dtype) for dtype in (torch.float32, torch.float16)),
    ],
    ids=str,
)
def test_compiled_loops_give_the_same_bits(
    method: str, parameters: dict[str, Any], dtype: torch.dtype, tmp_path: Path, monkeypatch: Any
) -> None:
    family(tmp_path, dtype=dtype)
    monkeypatch.setattr(blocks, "BLOCK", 100)
    monkeypatch.setattr(walk, "PIECE", 300)
    made = recipe(tmp_path, method, ("e1", "e2", "e3")[: expert_count(method)], parameters=parameters)
    monkeypatch.setattr(native, "_kernels", None)
    by_torch = run(made, tmp_path / "plain").tensors
    monkeypatch.setattr(native, "_kernels", native._found())
    plain = weights(tmp_path / "plain")
    run(made, tmp_path / "unmeasured", diagnostics=False)
    found = run(made, tmp_path / "measured").tensors
    for out in ("measured", "unmeasured"):
        compiled = weights(tmp_path / out)
        assert compiled.keys() == plain.keys()
        for name, tensor in plain.items():
            assert torch.equal(compiled[name], tensor), name
    assert same_reports(found, by_torch)


def same_reports(found: tuple[TensorReport, ...], wanted: tuple[TensorReport, ...]) -> bool:
    """Sums differ by the rounding of float32."""
    assert [each.name for each in found] == [each.name for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.sign_conflict == pytest.approx(other.sign_conflict, abs=1e-6), one.name
        assert one.survived == pytest.approx(other.survived, abs=1e-4), one.name
        assert torch.allclose(torch.tensor(one.gram), torch.tensor(other.gram), rtol=1e-4, atol=1e-6), one.name
    return True


@pytest.mark.parametrize(("method", "parameters"), IN_READINGS, ids=str)
def test_parts_are_what_the_whole_is(
    method: str, parameters: Any, tiny_family: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    folder, base, experts = tiny_family
    count = expert_count(method)
    monkeypatch.setattr(blocks, "BLOCK", 100)
    monkeypatch.setattr(walk, "PIECE", 300)
    live = copy.deepcopy(base)
    with quiet():
        live.merge_3h(dict(zip(ROLES, experts[:count], strict=False)), method=method, progress=False, **parameters)
    measured = run(recipe(folder, method, ("e1", "e2", "e3")[:count], parameters=parameters), tmp_path / "out")
    by_name = {each.name: each for each in live.merge_report.tensors}
    assert same_reports(measured.tensors, tuple(by_name[each.name] for each in measured.tensors))
    found = weights(tmp_path / "out")
    assert all(torch.equal(found[name], t) for name, t in live.state_dict().items() if name in found)
    plain = recipe(folder, method, ("e1", "e2", "e3")[:count], parameters=parameters)
    run(plain, tmp_path / "plain", diagnostics=False)
    names = [name for name in measured.outputs if name.endswith(".safetensors")]
    assert names
    assert all((tmp_path / "plain" / name).read_bytes() == (tmp_path / "out" / name).read_bytes() for name in names)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "della", "breadcrumbs", "sce", "model_stock", "slerp"])
def test_no_tensor_is_in_memory_as_a_whole(method: str) -> None:
    parts = get_method(method).parts
    assert parts is not None
    bound = get_method(method).bind({"rescale": "l1"} if method in ("dare_ties", "della") else {}, 2)
    supplied = {"keys": torch.zeros(2, 1, dtype=torch.int64), "statistics": None}
    assert isinstance(parts(bound, torch.ones(2), supplied, (64, 32)), Parts)
