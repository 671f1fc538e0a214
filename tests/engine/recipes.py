"""Checkpoints on disk and recipes made by hand, for the tests of the streaming engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from hf_merge3h.engine import stream
from hf_merge3h.engine.steps import make_stream_plan
from hf_merge3h.manifest import Manifest
from hf_merge3h.recipes.types import ModelReference, Recipe, TensorJob
from tests.engine.models import ROLES, llama, whole_experts


def save(model: nn.Module, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)  # type: ignore[operator]
    return folder


def family(folder: Path, count: int = 3, dtype: Any = None, **options: Any) -> tuple[nn.Module, list[nn.Module]]:
    """A tiny Llama and its experts, saved as base, e1, e2, ..."""
    base = llama(**options)
    experts = whole_experts(base, count)
    for name, model in [("base", base), *((f"e{n}", expert) for n, expert in enumerate(experts, start=1))]:
        save(model if dtype is None else model.to(dtype), folder / name)
    return base, experts


def recipe(
    folder: Path,
    method: str,
    names: Sequence[str] = ("e1", "e2", "e3"),
    *,
    base: str | None = "base",
    parameters: Mapping[str, Any] | None = None,
    weights: Sequence[float] | None = None,
    adapters: Mapping[str, tuple[str, ...]] | None = None,
    layers: int | None = None,
    **facts: Any,
) -> Recipe:
    """Every tensor of the base (or first model) by one method."""
    adapters = adapters or {}
    references = [
        ModelReference(str(folder / (name if name not in adapters else "base")), adapters.get(name, ()), name, role)
        for name, role in zip(names, ROLES, strict=False)
    ]
    if base is not None:
        references.append(ModelReference(str(folder / base), (), base, "base"))
    place = len(references) - 1 if base is not None else None
    count = len(names)

    def jobs(shapes: Sequence[Mapping[str, tuple[int, ...]]], counts: Sequence[int | None]) -> tuple[TensorJob, ...]:
        return tuple(
            TensorJob(
                name,
                method,
                tuple((index, name) for index in range(count)),
                None if place is None else (place, name),
                tuple(weights) if weights is not None else None,  # type: ignore[arg-type]
                parameters or {},
            )
            for name in shapes[place or 0]
        )

    return Recipe(tuple(references), place, jobs, lambda counts: layers, given={"merge_method": method}, **facts)


def run(made: Recipe, out: Path, **options: Any) -> Manifest:
    """The streamed merge of a recipe."""
    return stream.merge_plan(make_stream_plan(made, device="cpu"), out, **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's shards."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found.update(load_file(path))
    return found
