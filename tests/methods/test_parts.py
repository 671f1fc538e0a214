"""Methods that read a tensor part by part: what they keep of it."""

from __future__ import annotations

import gc
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch

from hf_merge3h import get_method
from hf_merge3h.linalg import blocks, native
from hf_merge3h.registry import Parts
from tests.engine.models import METHODS, expert_count

PLAIN = [(name, {}) for name in METHODS if get_method(name).parts is not None]
READINGS = [
    ("dare_ties", {"rescale": "l1"}),
    ("della", {"rescale": "l1"}),
    ("ties", {"rescale": "l1"}),
    ("breadcrumbs", {"rescale": "l1"}),
    ("sce", {"select_topk": 0.3}),
]
BLOCK = 64


def objects(root: object) -> int:
    """How many objects something holds, directly or not; of a function what it closes over."""
    waiting, seen = [root], {}
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, (type, ModuleType)):
            continue
        seen[id(each)] = each
        waiting += each.__closure__ or () if isinstance(each, FunctionType) else gc.get_referents(each)
    return len(seen)


def kept(parts: Parts, vectors: torch.Tensor) -> int:
    """The most objects that parts hold, at the end of a reading, or of the merge."""
    entries, most = vectors.shape[-1], 0
    while (stride := parts.stride()) is not None:
        for start in range(0, entries, BLOCK * stride):
            parts.add(parts.look(start, vectors[..., start : start + BLOCK * stride : stride].contiguous()))
        most = max(most, objects(parts))
    for start in range(0, entries, BLOCK):
        parts.merge(start, vectors[..., start : start + BLOCK].contiguous())
    return max(most, objects(parts))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("name", "parameters"), [*PLAIN, *READINGS], ids=str)
def test_nothing_is_kept_of_each_part(
    name: str, parameters: dict[str, Any], compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small objects that stay, among the large ones that a part makes and frees, cut up the heap."""
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)
    monkeypatch.setattr(native, "_kernels", native._found() if compiled else None)
    record, experts, counts = get_method(name), expert_count(name), []
    assert record.parts is not None
    for rows in (20, 120):
        vectors = torch.randn(experts, 1, rows * 32, generator=torch.Generator().manual_seed(0))
        supplied = {"keys": torch.zeros(experts, 1, dtype=torch.int64), "statistics": None}
        parts = record.parts(record.bind(parameters, experts), torch.ones(experts), supplied, (rows, 32))
        assert isinstance(parts, Parts)
        counts.append(kept(parts, vectors))
    assert counts[1] < counts[0] + 10, "50 more parts"
