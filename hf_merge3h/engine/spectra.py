"""Singular values of what experts change and of what a merge stored: along how many directions, and how strongly."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RequestError
from ..linalg.low_rank import LowRank
from ..models.adapters.folder import load_adapter
from ..models.sources import open_source
from ..models.types import HubOptions
from .adapter_recipe import AdapterPlan
from .ambient import in_plain_arithmetic
from .stream_plan import StreamPlan

#: A matrix with a greater short side would take longer than anybody waits for a picture.
_GREATEST_SIDE = 4096


#: A change of one tensor: as it is, as factors, or none.
Delta = Tensor | LowRank | None


@in_plain_arithmetic
@torch.no_grad()
def spectra(
    plan: StreamPlan | AdapterPlan, out: str | os.PathLike[str], *, matrices: int = 7
) -> dict[str, dict[str, list[float]]]:
    """Singular values of the experts' changes and of the merged one, for one matrix of each kind.

    Args:
        plan: of a merge that was carried out (`plan_recipe`).
        out: the folder that it made: the merged change is what was stored there.
        matrices: how many kinds of matrices (`self_attn.q_proj`, `mlp.up_proj`, ...); of each, the middle layer's.

    Returns:
        Name of the tensor -> role, or "merged" -> singular values, the greatest first.
    """
    if isinstance(plan, AdapterPlan):
        found = _of_adapters(plan, Path(out), matrices)
    else:
        found = _of_weights(plan, Path(out), matrices)
    return {name: {who: _values(delta) for who, delta in deltas.items()} for name, deltas in found}


def _of_adapters(plan: AdapterPlan, out: Path, matrices: int) -> Iterator[tuple[str, dict[str, Delta]]]:
    """No weights of the base are read: a plan of adapters has none that need them."""
    merged = load_adapter(out, plan.skeleton, "merged")
    shapes = {name: spec.shape for name, spec in plan.specs.items()}
    for name in _chosen(shapes, matrices):
        parties = {**dict(zip(plan.sources, plan.adapters, strict=True)), "merged": merged}
        yield name, {who: each.delta(name, _no_base) if name in each.specs() else None for who, each in parties.items()}


def _no_base() -> Tensor:
    raise RequestError("an adapter whose change depends on the base's weights has no spectrum without them")


def _of_weights(plan: StreamPlan, out: Path, matrices: int) -> Iterator[tuple[str, dict[str, Delta]]]:
    merged = open_source(str(out), (), "merged", HubOptions(local_files_only=True))
    steps = {step.job.name: step for step in plan.steps if step.request is not None and step.base is not None}
    for name in _chosen({name: step.spec.shape for name, step in steps.items()}, matrices):
        base = steps[name].read_base(name).float()
        deltas: dict[str, Delta] = {
            each.role: each.delta(name, lambda base=base: base)  # type: ignore[misc]
            for each in steps[name].inputs
        }
        yield name, {**deltas, "merged": merged.load(name).float() - base}


def _chosen(shapes: Mapping[str, tuple[int, ...]], matrices: int) -> list[str]:
    """One matrix of each kind, from the middle of its layers."""
    kinds: dict[str, list[str]] = {}
    for name, shape in shapes.items():
        if len(shape) == 2 and re.search(r"\.\d+\.", name) and min(shape) <= _GREATEST_SIDE:
            kinds.setdefault(re.split(r"\.\d+\.", name)[-1], []).append(name)
    return [_middle(group) for group in list(kinds.values())[:matrices]]


def _middle(names: Sequence[str]) -> str:
    return sorted(names, key=lambda name: [int(each) for each in re.findall(r"\d+", name)])[len(names) // 2]


def _values(delta: Delta) -> list[float]:
    """Singular values; a product of factors is never multiplied out."""
    if delta is None:
        return []
    small: Any = delta
    if isinstance(delta, LowRank):
        left, right = delta.left.double(), delta.right.double()
        small = torch.linalg.qr(left, mode="r").R @ torch.linalg.qr(right.mT, mode="r").R.mT
    values = torch.linalg.svdvals(small)
    return [float(value) for value in values]
