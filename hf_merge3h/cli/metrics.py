"""`hf-merge3h metrics`, `metrics show` and `metrics push`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .options import AsJson

Name = Annotated[str, typer.Argument(help="A metric's name.", show_default=False)]


def metrics(context: typer.Context, as_json: AsJson = False) -> None:
    """List the metrics; `show NAME` tells all about one, `push NAME REPO` uploads it as a Space."""
    from ..metrics import list_metrics

    if context.invoked_subcommand is not None:
        return
    found = list_metrics()
    if as_json:
        typer.echo(json.dumps([metric.facts() for metric in found], indent=2))
        return
    width = max(len(metric.name) for metric in found)
    for metric in found:
        typer.echo(f"{metric.name:{width}}  {metric.about}")


def show(name: Name, as_json: AsJson = False) -> None:
    """Show what a metric takes and returns."""
    from ..metrics import get

    metric = get(name)
    typer.echo(json.dumps(metric.facts(), indent=2) if as_json else metric.text())


def push(
    name: Name,
    repo: Annotated[str, typer.Argument(help="owner/name of the Space.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make it a private Space.")] = False,
) -> None:
    """Upload a metric as a Gradio Space; its files there are replaced."""
    from ..metrics.push import push as upload

    typer.echo(upload(name, repo, private=private))


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="The metrics.", rich_markup_mode=None)
    group.callback(invoke_without_command=True)(metrics)
    group.command()(show)
    group.command()(push)
    app.add_typer(group, name="metrics")
