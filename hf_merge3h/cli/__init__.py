"""The command line: thin. One file a group of commands; each command imports what it needs when it runs, so that
`--help` stays quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ..errors import MergeError, RequestError
from . import ending, evaluate, lab, methods, metrics, publishing, recipes

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
        from .. import __version__

        typer.echo(f"hf-merge3h {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Merge a helpful, an honest and a harmless model into one."""


for _group in (methods, recipes, metrics, publishing, evaluate, lab):
    _group.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error is one message: status 2 if it is the user's to mend, 1 if the work failed.

    Args:
        arguments: None for those of the process, which then is this command's own.
    """
    if arguments is None:
        ending.collect_less()
        ending.unwind_when_told()
        ending.quickly(_run)
    _run(arguments)


def _run(arguments: Sequence[str] | None = None) -> None:
    try:
        app(args=None if arguments is None else list(arguments), prog_name="hf-merge3h")
    except RequestError as error:
        typer.echo(f"error: {error.of_command_line()}", err=True)
        sys.exit(2)
    except MergeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except OSError as error:  # standard output, mostly: on a disk that is full
        name = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {name}{error.strerror or error}", err=True)
        sys.exit(1)
