"""The command line: thin. Each command imports what it needs when it runs, so that `--help` stays quick."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from .errors import MergeError, RequestError

app = typer.Typer(
    name="hf-merge3h",
    help="Merge a helpful, an honest and a harmless model into one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich alone would double the time that --help takes
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(f"hf-merge3h {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Merge a helpful, an honest and a harmless model into one."""


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="A method's name or alias; all methods without it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List the merging methods, or show all about one: parameters, ranges, defaults, laws, paper."""
    from . import catalogue, registry

    records = registry.list_methods() if name is None else (registry.get_method(name),)
    if as_json:
        facts = [catalogue.facts(record) for record in records]
        typer.echo(json.dumps(facts if name is None else facts[0], indent=2))
    else:
        typer.echo(catalogue.text_table(records) if name is None else catalogue.text_page(records[0]))


_Recipe = Annotated[Path, typer.Argument(help="A YAML file: mergekit's schema, extended.", show_default=False)]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
_Dtype = Annotated[str | None, typer.Option(help="Stored dtype of the result, in place of the recipe's.")]
_Seed = Annotated[int | None, typer.Option(help="Of random masks, in place of the recipe's.")]
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable.")]


@app.command()
def merge(
    recipe: _Recipe,
    out: Annotated[Path, typer.Argument(help="The folder that is made, whole or not at all.", show_default=False)],
    device: _Device = "auto",
    dtype: _Dtype = None,
    seed: _Seed = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest file of weights.")] = "5GB",
    diagnostics: Annotated[
        bool, typer.Option(help="Measure what the merge does to each block, and hash all files.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT, once the new one is whole.")] = False,
    as_json: _Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show neither bar nor result.")] = False,
) -> None:
    """Merge whole checkpoints, larger than memory if need be, as a recipe says."""
    from .engine.recipes import merge_recipe

    manifest = merge_recipe(
        recipe,
        out,
        device=device,
        dtype=dtype,
        seed=seed,
        max_shard_size=max_shard_size,
        diagnostics=diagnostics,
        overwrite=overwrite,
        progress=not quiet and not as_json and sys.stderr.isatty(),
    )
    if as_json:
        typer.echo(json.dumps(manifest.content, indent=2))
    elif not quiet:
        output = manifest.content["output"]
        typer.echo(f"{out}: {output['tensors']} tensors, {output['bytes']:,} bytes, {manifest.content['seconds']} s")


@app.command()
def plan(
    recipe: _Recipe, device: _Device = "auto", dtype: _Dtype = None, seed: _Seed = None, as_json: _Json = False
) -> None:
    """Show what a recipe would do: tensors, bytes, memory, seconds; reads no weights and writes nothing."""
    from .engine.recipes import plan_facts, plan_recipe, plan_text
    from .recipes.read import read_recipe

    found = plan_recipe(read_recipe(recipe), device=device, dtype=dtype, seed=seed)
    typer.echo(json.dumps(plan_facts(found), indent=2) if as_json else plan_text(found))


@app.command()
def init(
    models: Annotated[list[str], typer.Argument(help="Folders or Hub ids of the experts.", show_default=False)],
    base: Annotated[str | None, typer.Option(help="The model that they were trained from.")] = None,
    method: Annotated[str, typer.Option(help="The merging method.")] = "r_tsvm",
) -> None:
    """Write a commented recipe for these models to standard output."""
    from .recipes.init import commented_recipe

    typer.echo(commented_recipe(models, base=base, method=method), nl=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error is one message: status 2 if it is the user's to mend, 1 if the work failed."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="hf-merge3h")
    except RequestError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except MergeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
