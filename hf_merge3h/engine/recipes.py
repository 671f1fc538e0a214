"""`merge_recipe`: a recipe in, a folder out; and what the command line tells before and during it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..manifest import Manifest
from ..models.types import HubOptions
from ..recipes.types import Recipe
from .folder import check_side_files
from .steps import make_stream_plan
from .stream import merge_plan
from .stream_plan import Progress, StreamPlan

#: A guess at how fast memory is walked through, bytes of float32 a second and core; only the plan's seconds need it.
_RATE = 1.2e9


def merge_recipe(
    recipe: str | os.PathLike[str] | Mapping[str, Any],
    out: str | os.PathLike[str],
    *,
    device: str = "auto",
    dtype: str | None = None,
    seed: int | None = None,
    max_shard_size: int | str = "5GB",
    diagnostics: bool = True,
    overwrite: bool = False,
    progress: bool = True,
    token: str | bool | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
) -> Manifest:
    """Merge whole checkpoints out of core, as a recipe says; the same as `hf-merge3h merge RECIPE OUT`.

    Args:
        recipe: a YAML file (mergekit's schema, extended), or its content as a dict.
        out: the folder that is made, with weights, config, tokenizer and merge3h.json; it appears whole or not at all.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: stored dtype of the result, in place of the recipe's.
        seed: of random masks, in place of the recipe's.
        max_shard_size: largest file, such as "5GB".
        diagnostics: measure what the merge does to each block, and hash all files.
        overwrite: replace `out`, which is kept until the new one is whole.
        progress: show a bar.
        token, cache_dir, local_files_only: as in `from_pretrained`.

    Returns:
        The manifest, as it lies in `out`.

    Raises:
        RequestError: the recipe cannot be carried out; nothing was written.
        OutputError: writing failed; nothing is left behind.
    """
    from ..recipes.read import read_recipe

    hub = HubOptions(token, None, None, cache_dir, local_files_only)
    plan = plan_recipe(read_recipe(recipe), device=device, dtype=dtype, seed=seed, hub=hub)
    with _Bar(plan, progress) as bar:
        return merge_plan(
            plan, Path(out), max_shard_size=max_shard_size, diagnostics=diagnostics, overwrite=overwrite, tell=bar.tell
        )


def plan_recipe(
    recipe: Recipe,
    *,
    device: str = "auto",
    dtype: str | None = None,
    seed: int | None = None,
    hub: HubOptions | None = None,
) -> StreamPlan:
    """Check a recipe against its models, and work out every step; reads headers and configs."""
    plan = make_stream_plan(recipe, hub=hub, device=device, dtype=dtype, seed=seed)
    check_side_files(plan)
    return plan


def plan_facts(plan: StreamPlan) -> dict[str, Any]:
    """What would happen, as plain data."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for step in plan.steps:
        key = (step.job.method, step.spec.shape, str(step.spec.dtype), len(step.inputs))
        entry = groups.setdefault(
            key,
            {
                "method": step.job.method,
                "shape": list(step.spec.shape),
                "dtype": str(step.spec.dtype).removeprefix("torch."),
                "experts": len(step.inputs),
                "tensors": 0,
                "bytes_read": 0,
            },
        )
        entry["tensors"] += 1
        entry["bytes_read"] += step.bytes_read
    return {
        "recipe": plan.recipe.label,
        "models": [model.label for model in plan.models],
        "groups": list(groups.values()),
        "tensors": len(plan.specs),
        "bytes_read": plan.bytes_read,
        "bytes_written": plan.bytes_written,
        "peak_memory": plan.peak_memory,
        "seconds": round((2 * plan.bytes_read + plan.bytes_written) / (_RATE * (os.cpu_count() or 1)), 1),
        "warnings": list(plan.recipe.warnings),
        "device": str(plan.device),
        "layers": plan.layers if plan.layers is not None else plan.main.layers,
    }


def plan_text(plan: StreamPlan) -> str:
    """The same, to be read."""
    facts = plan_facts(plan)
    lines = [f"{facts['recipe']}: {len(facts['models'])} models -> {facts['tensors']} tensors"]
    lines += [f"  {label}" for label in facts["models"]]
    for group in facts["groups"]:
        shape = " x ".join(map(str, group["shape"])) or "scalar"
        lines.append(
            f"  {group['method']}: {group['tensors']} tensors of {shape} ({group['dtype']}), "
            f"{group['experts']} experts, {_size(group['bytes_read'])} read"
        )
    lines.append(
        f"reads {_size(facts['bytes_read'])}, writes {_size(facts['bytes_written'])}, about "
        f"{_size(facts['peak_memory'])} of memory, some {facts['seconds']:g} s on {facts['device']}"
    )
    lines += [f"warning: {warning}" for warning in plan.recipe.warnings]
    return "\n".join(lines)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


class _Bar:
    """A bar with rate and time left."""

    def __init__(self, plan: StreamPlan, shown: bool) -> None:
        from huggingface_hub.utils import tqdm

        total = plan.bytes_read + plan.bytes_written
        self._bar = tqdm(total=total, desc="merging", unit="B", unit_scale=True, disable=not shown, leave=False)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def tell(self, progress: Progress) -> None:
        """Move on."""
        self._bar.update(progress.done - self._bar.n)
