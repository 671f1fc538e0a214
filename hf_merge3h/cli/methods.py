"""`hf-merge3h methods`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .options import AsJson


def methods(
    name: Annotated[str | None, typer.Argument(help="A method's name or alias; all methods without it.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the merging methods, or show all about one: parameters, ranges, defaults, laws, paper.

    The last one, passthrough, merges nothing and is for recipes only: it copies layers, for stacks of them.
    """
    from .. import catalogue, registry
    from ..recipes.passthrough import RECORD

    if name is None:
        records = (*registry.list_methods(), RECORD)
    else:
        records = (RECORD if name == RECORD.name else registry.get_method(name),)
    if as_json:
        facts = [catalogue.facts(record) for record in records]
        typer.echo(json.dumps(facts if name is None else facts[0], indent=2))
    else:
        typer.echo(catalogue.text_table(records) if name is None else catalogue.text_page(records[0]))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(methods)
