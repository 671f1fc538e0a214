"""`merge_recipe`: a recipe in, a folder out; and what the command line tells before and during it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import bad
from ..manifest import Manifest
from ..models.types import HubOptions
from ..models.weights.output import OutputFolder
from ..models.weights.writer import parse_size
from ..recipes.types import SEED_BITS, Recipe
from .folder import check_side_files
from .request import as_integer, resolve_dtype
from .steps import make_stream_plan
from .stream import merge_plan
from .stream_plan import Progress, StreamPlan, Tell

# Merging whole checkpoints needs no peft, whose import alone takes longer than a small merge: adapters bring it.
if TYPE_CHECKING:
    from .adapter_recipe import AdapterPlan


def merge_recipe(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe | StreamPlan | AdapterPlan,
    out: str | os.PathLike[str],
    *,
    device: str = "auto",
    dtype: str | None = None,
    seed: int | None = None,
    max_shard_size: int | str = "5GB",
    diagnostics: bool = True,
    overwrite: bool = False,
    progress: bool | Tell = True,
    token: str | bool | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
) -> Manifest:
    """Merge whole checkpoints out of core, as a recipe says; the same as `hf-merge3h merge RECIPE OUT`.

    Args:
        recipe: a YAML file (mergekit's schema, extended), its content as a dict, what `read_recipe` made of it, or
            `plan_recipe`: nothing is opened again then, and what was said to the plan (device, dtype, seed, hub) holds.
        out: the folder that is made, with weights, config, tokenizer and merge3h.json; it appears whole or not at all.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: stored dtype of the result, in place of the recipe's.
        seed: of random masks, in place of the recipe's.
        max_shard_size: largest file, such as "5GB".
        diagnostics: measure what the merge does to each block, and hash all files.
        overwrite: replace `out`, which is kept until the new one is whole.
        progress: show a bar; or a function that is called with a `Progress` after each tensor or stack. What it raises
            ends the merge, and nothing is left behind.
        token, cache_dir, local_files_only: as in `from_pretrained`.

    Returns:
        The manifest, as it lies in `out`.

    Raises:
        RequestError: the recipe cannot be carried out; nothing was written.
        OutputError: writing failed; nothing is left behind.
    """
    from ..recipes.read import read_recipe

    parse_size(max_shard_size)
    if not isinstance(out, (str, os.PathLike)):
        raise bad("out", out, "the path of a folder")
    OutputFolder(Path(out), overwrite=overwrite).check()
    if isinstance(recipe, (str, os.PathLike, Mapping, Recipe)):
        hub = HubOptions(token, None, None, cache_dir, local_files_only)
        read = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
        plan = plan_recipe(read, device=device, dtype=dtype, seed=seed, hub=hub)
    else:
        plan = _made_already(recipe, device=device, dtype=dtype, seed=seed)
    if not isinstance(plan, StreamPlan):
        from .adapter_recipe import merge_adapter_plan

        return merge_adapter_plan(plan, Path(out), diagnostics=diagnostics, overwrite=overwrite, progress=progress)
    with _Bar(plan, progress is True) as bar:
        tell = progress if callable(progress) else bar.tell
        return merge_plan(
            plan, Path(out), max_shard_size=max_shard_size, diagnostics=diagnostics, overwrite=overwrite, tell=tell
        )


def plan_recipe(
    recipe: Recipe,
    *,
    device: str = "auto",
    dtype: str | None = None,
    seed: int | None = None,
    hub: HubOptions | None = None,
    reuse: StreamPlan | AdapterPlan | None = None,
) -> StreamPlan | AdapterPlan:
    """Check a recipe against its models, and work out every step; reads headers and configs.

    Args:
        recipe: as `read_recipe` gives it.
        device, dtype, seed: as in `merge_recipe`.
        hub: where models are fetched from.
        reuse: an earlier plan: of `out: adapter`, what it opened for the same base is not read again, unless its file
            has changed since.
    """
    recipe = _with(recipe, dtype=dtype, seed=seed)
    if recipe.out == "adapter":
        from .adapter_recipe import plan_adapters

        return plan_adapters(recipe, hub=hub or HubOptions(), device=device, reuse=reuse)
    plan = make_stream_plan(recipe, hub=hub, device=device)
    check_side_files(plan)
    return plan


def _with(recipe: Recipe, *, dtype: str | None, seed: int | None) -> Recipe:
    """The recipe with what is said in place of its own: manifest and card then hold one that gives the same again."""
    if (stored := resolve_dtype(dtype)) is not None:
        name = str(stored).removeprefix("torch.")
        recipe = dataclasses.replace(recipe, out_dtype=name, given={**recipe.given, "out_dtype": name})
    if seed is not None:
        expected = f"an integer of at most {SEED_BITS} bits"
        number = as_integer("seed", seed, expected)
        if number.bit_length() > SEED_BITS:
            raise bad("seed", seed, expected)
        recipe = dataclasses.replace(recipe, seed=number, given={**recipe.given, "seed": number})
    return recipe


def _made_already(plan: Any, *, device: str, dtype: str | None, seed: int | None) -> StreamPlan | AdapterPlan:
    """A plan in place of a recipe: it was made for a device, a dtype and a seed, which cannot be changed any more."""
    if not hasattr(plan, "recipe") or not hasattr(plan, "bytes_read"):
        raise bad("recipe", type(plan).__name__, "a YAML file, a dict, or what plan_recipe gave")
    for name, value in (("device", None if device == "auto" else device), ("dtype", dtype), ("seed", seed)):
        if value is not None:
            raise bad(name, value, "nothing beside a plan", f"plan_recipe(..., {name}={value!r}) makes one for it")
    made: StreamPlan | AdapterPlan = plan
    return made


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
