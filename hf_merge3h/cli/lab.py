"""`hf-merge3h lab run`, `lab status` and `lab report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import MergeError, bad, nearest
from .options import AsJson

if TYPE_CHECKING:
    from ..lab.comparison.config import Lab
    from ..lab.comparison.graph import Graph

_File = Annotated[Path, typer.Argument(help="The comparison: lab.yaml (docs/LAB.md).", show_default=False)]
_Out = Annotated[Path, typer.Option("--out", help="Folder of steps and report.", show_default=False)]

lab = typer.Typer(
    help="Train, mix, merge, tune and measure: the paper's comparison on your own base and data.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@lab.command()
def run(
    file: _File,
    out: _Out,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only steps whose names begin with this, and what they need; may be repeated."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="Set steps, items and trials so that all of it takes about so long here.")
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(min=1, help="Steps done at once, each with its share of the cores; memory for each is needed."),
    ] = 1,
    prune: Annotated[bool, typer.Option("--prune", help="Delete results that this file no longer asks for.")] = False,
) -> None:
    """Do what is not done yet, step by step, and write the report; a killed run goes on where it stopped."""
    from ..evaluation.store import locked
    from ..lab.comparison.budget import settled, within
    from ..lab.comparison.findings import Findings
    from ..lab.comparison.reading import read_lab
    from ..lab.comparison.records import RECORDS, Records
    from ..lab.comparison.steps import check_space, graph_of

    def tell(text: str) -> None:
        typer.echo(text, err=True)

    comparison = read_lab(file)
    with locked(out):
        comparison = settled(comparison, out) if hours is None else within(comparison, hours, out, tell, jobs)
        graph = graph_of(comparison, out)
        check_space(graph, comparison, jobs)
        chosen = _chosen(graph, only)
        if prune:
            _prune(graph)
        states = graph.run(chosen, tell, jobs)
        records = Records.of(comparison, graph)
        records.save(out / RECORDS)
        written = Findings.of(records).save(out)
    typer.echo(f"report: {written}")
    ended = [state for state in states if state.word != "done"]
    if ended:
        raise MergeError(f"{len(ended)} of {len(states)} steps are not done:\n" + "\n".join(map(_line, ended)))


@lab.command()
def status(file: _File, out: _Out, as_json: AsJson = False) -> None:
    """What is done, what failed and why, what is left, and what lies there that is no longer asked for."""
    import json

    _, graph = _settled(file, out)
    states = graph.states()
    if as_json:
        told = [{"step": one.step.name, "state": one.word, "folder": str(one.folder), **one.facts} for one in states]
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False, default=str))
        return
    for one in states:
        typer.echo(_line(one))
    words = [one.word for one in states]
    typer.echo(", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)))
    stale = graph.stale()
    if stale:
        size = sum(path.stat().st_size for folder in stale for path in folder.rglob("*") if path.is_file())
        typer.echo(f"{len(stale)} results of other settings, {size / 1e6:,.0f} MB: `lab run --prune` deletes them")


@lab.command()
def report(
    file: Annotated[
        Path,
        typer.Argument(
            help="lab.yaml, and --out its run; or the records.json of a run (also .gz), and --out a folder for the "
            "report.",
            show_default=False,
        ),
    ],
    out: _Out,
) -> None:
    """Write the report and its pictures again, without running anything: from what is done, or from kept records."""
    from ..lab.comparison.findings import Findings
    from ..lab.comparison.records import RECORDS, Records

    if file.suffix in (".json", ".gz"):
        records = Records.read(file)
        out.mkdir(parents=True, exist_ok=True)
    else:
        records = Records.of(*_settled(file, out))
        records.save(out / RECORDS)
    typer.echo(f"report: {Findings.of(records).save(out)}")


def _settled(file: Path, out: Path) -> tuple[Lab, Graph]:
    from ..lab.comparison.budget import settled
    from ..lab.comparison.reading import read_lab
    from ..lab.comparison.steps import graph_of

    if not out.is_dir():
        raise bad("--out", str(out), "the folder of a run", "begin one with `hf-merge3h lab run`")
    comparison = settled(read_lab(file), out)
    return comparison, graph_of(comparison, out)


def _chosen(graph: Graph, only: list[str] | None) -> list[str]:
    if not only:
        return list(graph.steps)
    found = [name for name in graph.steps if any(name.startswith(each) for each in only)]
    for each in only:
        if not any(name.startswith(each) for name in graph.steps):
            raise bad("--only", each, "the beginning of a step's name", nearest(each, graph.steps))
    return found


def _prune(graph: Graph) -> None:
    import shutil

    for folder in graph.stale():
        shutil.rmtree(folder)
        sys.stderr.write(f"deleted {folder}\n")


def _line(state: object) -> str:
    from ..lab.comparison.graph import State

    assert isinstance(state, State)
    told = f"{state.word:8} {state.step.name}"
    if state.word == "done":
        return f"{told}  {state.facts['seconds']:.0f} s, {state.facts['peak_mb']:.0f} MB"
    return told + (f"  {state.facts['error']}" if "error" in state.facts else "")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(lab, name="lab")
