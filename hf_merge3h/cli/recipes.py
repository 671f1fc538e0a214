"""`hf-merge3h merge`, `plan`, `init` and `schema`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson, Device, Dtype, Recipe, Seed

Diagnostics = Annotated[bool, typer.Option(help="Measure what the merge does to each block, and hash all files.")]


def merge(
    recipe: Recipe,
    out: Annotated[Path, typer.Argument(help="The folder that is made, whole or not at all.", show_default=False)],
    device: Device = "auto",
    dtype: Dtype = None,
    seed: Seed = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest file of weights.")] = "5GB",
    diagnostics: Diagnostics = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT, once the new one is whole.")] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show neither bar, result nor warnings.")] = False,
) -> None:
    """Merge whole checkpoints, larger than memory if need be, as a recipe says."""
    from ..models.weights.output import OutputFolder
    from ..recipes.read import read_recipe

    # before torch is imported, which takes longer than to tell what is wrong with a recipe or a folder
    read = read_recipe(recipe)
    OutputFolder(out, overwrite=overwrite).check()

    from ..engine.recipes import merge_recipe, plan_recipe

    if quiet:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()  # those of downloads, which are the Hub's own
    found = plan_recipe(read, device=device, dtype=dtype, seed=seed)
    told = [] if quiet else _warn(found.recipe.warnings)  # before hours of merging, not after
    manifest = merge_recipe(
        found,
        out,
        max_shard_size=max_shard_size,
        diagnostics=diagnostics,
        overwrite=overwrite,
        progress=not quiet and not as_json and sys.stderr.isatty(),
    )
    if not quiet:
        _warn(each for each in manifest.content["warnings"] if each not in told)
    if as_json:
        typer.echo(json.dumps(manifest.content, indent=2))
    elif not quiet:
        output = manifest.content["output"]
        typer.echo(f"{out}: {output['tensors']} tensors, {output['bytes']:,} bytes, {manifest.content['seconds']} s")


def _warn(warnings: Iterable[str]) -> list[str]:
    """Tell these on standard error."""
    told = list(warnings)
    for each in told:
        typer.echo(f"warning: {each}", err=True)
    return told


def plan(
    recipe: Recipe,
    device: Device = "auto",
    dtype: Dtype = None,
    seed: Seed = None,
    diagnostics: Diagnostics = True,
    as_json: AsJson = False,
) -> None:
    """Show what a recipe would do: tensors, bytes, memory, seconds; merges nothing. Of Hub models headers are read."""
    from ..recipes.read import read_recipe

    read = read_recipe(recipe)  # before torch is imported, as in `merge`

    from ..engine.forecast import plan_facts, plan_text
    from ..engine.recipes import plan_recipe

    found = plan_recipe(read, device=device, dtype=dtype, seed=seed)
    if as_json:
        typer.echo(json.dumps(plan_facts(found, diagnostics=diagnostics), indent=2))
    else:
        typer.echo(plan_text(found, diagnostics=diagnostics))


def init(
    models: Annotated[list[str], typer.Argument(help="Folders or Hub ids of the experts.", show_default=False)],
    base: Annotated[str | None, typer.Option(help="The model that they were trained from.")] = None,
    method: Annotated[str, typer.Option(help="The merging method.")] = "r_tsvm",
    adapters: Annotated[
        bool, typer.Option("--adapters", help="The experts are PEFT adapters of the base; an adapter comes out.")
    ] = False,
    editor: Annotated[
        bool, typer.Option("--editor", help="Begin with a line that tells editors where the schema lies here.")
    ] = False,
) -> None:
    """Write a commented recipe for these models to standard output."""
    from ..recipes.init import commented_recipe

    text = commented_recipe(models, base=base, method=method, adapters=adapters, editor=editor)
    typer.echo(text, nl=False)


def schema() -> None:
    """Show where the JSON schema of recipes lies: with it, editors complete recipes and mark mistakes."""
    from ..recipes.json_schema import SCHEMA

    typer.echo(SCHEMA)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (merge, plan, init, schema):
        app.command()(command)
