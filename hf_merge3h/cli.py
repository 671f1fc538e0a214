"""The command line: thin. Each command imports what it needs when it runs, so that `--help` stays quick."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from .errors import MergeError

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error that is the user's to mend is one message and exit status 2."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="hf-merge3h")
    except MergeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
