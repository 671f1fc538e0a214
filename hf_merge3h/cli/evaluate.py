"""`hf-merge3h evaluate`, `report` and `suites`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import bad
from .options import AsJson, Device

if TYPE_CHECKING:
    from ..evaluation.suite import Suite, Task

_Model = Annotated[
    str | None, typer.Argument(help="Hub id or folder of the merged model or adapter.", show_default=False)
]
_Pairs = list[str] | None


def evaluate(
    model: _Model = None,
    against: Annotated[
        _Pairs, typer.Option(help="NAME=MODEL: base=..., helpful=..., honest=...; may be repeated.")
    ] = None,
    suite: Annotated[str, typer.Option(help="3h, 3h-offline, or a YAML file.")] = "3h-offline",
    limit: Annotated[int | None, typer.Option(help="Items a data set; all by default.")] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Stop asking after so long; the report says what was left out.")
    ] = None,
    datasets: Annotated[str | None, typer.Option(help="Only these of the suite, with commas.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of items and report; a run goes on where it stopped.")
    ] = None,
    data: Annotated[_Pairs, typer.Option(help="NAME=FILE: a local file for a data set; may be repeated.")] = None,
    predictions: Annotated[_Pairs, typer.Option(help="[NAME=]FILE.jsonl: answers that exist; may be repeated.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server (http://HOST/v1) that has MODEL.")
    ] = None,
    judge: Annotated[
        _Pairs,
        typer.Option(
            help="[METRIC=]JUDGE: Hub id or folder of a judge model, or a file of verdicts (.jsonl); may be repeated."
        ),
    ] = None,
    judge_family: Annotated[
        str | None, typer.Option(help="How judge models are asked, where their ids do not say it (docs/JUDGES.md).")
    ] = None,
    role: Annotated[_Pairs, typer.Option(help="NAME=H: which H an expert is one of.")] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of items, of sampling and resampling.")] = 0,
    device: Device = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Prompts at a time, to begin with.")] = None,
    skip_unreachable: Annotated[
        bool, typer.Option("--skip-unreachable", help="Name data sets that cannot be had, instead of an error.")
    ] = False,
    export_lm_eval: Annotated[
        Path | None,
        typer.Option(help="Only write the suite as tasks of lm-evaluation-harness into this folder; no MODEL then."),
    ] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show neither bars nor report.")] = False,
) -> None:
    """Measure a model over helpfulness, honesty and harmlessness, and compare it with others on the same items."""
    if quiet:  # before the libraries are imported, which read it then: their bars are bars too
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from ..evaluation.run import evaluate_3h

    chosen = None if datasets is None else [name.strip() for name in datasets.split(",") if name.strip()]
    if export_lm_eval is not None:
        if model is not None or against or predictions or endpoint or out:
            raise bad("--export-lm-eval", str(export_lm_eval), "no model and no --out: it only writes tasks")
        _export(suite, export_lm_eval, chosen, _pairs("data", data), limit, seed)
        return
    report = evaluate_3h(
        _models(model, against, predictions, endpoint),
        suite,
        limit=limit,
        max_seconds=max_seconds,
        datasets=chosen,
        judge=_judge(judge, judge_family),
        out=out,
        seed=seed,
        data=_pairs("data", data),
        roles=_pairs("role", role),
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        skip_unreachable=skip_unreachable,
        progress=not quiet and not as_json and sys.stderr.isatty(),
    )
    if as_json:
        typer.echo(report.to_json(), nl=False)
    elif not quiet:
        typer.echo(repr(report))
        if out is not None:
            typer.echo(f"\n{out}: report.html, report.md, report.json, and the items")


def _export(
    suite: str, folder: Path, datasets: list[str] | None, data: dict[str, str], limit: int | None, seed: int
) -> None:
    from ..evaluation.export import export_lm_eval

    done = export_lm_eval(suite, folder, datasets=datasets, data=data, limit=limit, seed=seed)
    typer.echo(f"{folder}: {len(done.tasks)} tasks; its README.md says how they are run")
    for name, reason in done.left_out.items():
        typer.echo(f"{name} is not among them: {reason}")


def report(
    folder: Annotated[Path, typer.Argument(help="The folder that `evaluate --out` wrote.", show_default=False)],
    plot: Annotated[Path | None, typer.Option(help="Also draw the pictures into this file.")] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Pictures for dark pages.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the report of a run again, from its items alone."""
    from ..evaluation.report import Report

    told = Report.read(folder)
    told.save(folder)
    if plot is not None:
        told.plot(plot, dark=dark)
    typer.echo(told.to_json() if as_json else repr(told), nl=not as_json)


def _models(model: str | None, against: _Pairs, predictions: _Pairs, endpoint: str | None) -> dict[str, Any]:
    from ..evaluation.answers import Predictions
    from ..evaluation.endpoint import Endpoint

    models: dict[str, Any] = dict(_pairs("against", against))
    for given in predictions or ():
        name, equals, path = given.partition("=")
        models[name if equals else "merged"] = Predictions(path if equals else given)
    if endpoint is not None and model is None:
        raise bad("MODEL", None, "what the server calls the model", f"hf-merge3h evaluate NAME --endpoint {endpoint}")
    if model is not None:
        if "merged" in models:
            raise bad("MODEL", model, "one merged model", "give it as MODEL, or under another name")
        models["merged"] = Endpoint(endpoint, model) if endpoint is not None else model
    if not models:
        raise bad("MODEL", None, "a Hub id or a folder, or --predictions FILE")
    return models


def _pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not equals or not name or not value:
            raise bad(f"--{option}", each, "NAME=VALUE")
        if name in found:
            raise bad(f"--{option}", each, f"{name} once")
        found[name] = value
    return found


def _judge(given: _Pairs, family: str | None) -> Any:
    """One judge for all, or a dict of metric and judge."""
    from ..evaluation.suite import JUDGED
    from ..judges import PipelineJudge, PrecomputedJudge

    def made(source: str) -> Any:
        if source.endswith(".jsonl"):
            return PrecomputedJudge(source)
        return PipelineJudge(source, family=family)

    if family is not None and not any(not each.endswith(".jsonl") for each in given or ()):
        raise bad("--judge-family", family, "a judge model, given as --judge MODEL")
    parts = [each.partition("=") for each in given or ()]
    named = [each for each in parts if each[0] in JUDGED and each[1]]
    if not named:
        if len(parts) > 1:
            raise bad("--judge", given, f"one judge, or METRIC=JUDGE for each, of {', '.join(JUDGED)}")
        return made((given or [""])[0]) if parts else None
    if len(named) < len(parts):
        raise bad("--judge", given, f"METRIC=JUDGE for each, of {', '.join(JUDGED)}")
    return {metric: made(source) for metric, source in _pairs("judge", given).items()}


suites = typer.Typer(
    help="The suites of data sets that `evaluate` knows.", invoke_without_command=True, rich_markup_mode=None
)


@suites.callback()
def _all(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        from ..evaluation.suite import list_suites, read_suite

        for name in list_suites():
            typer.echo(f"{name}: {read_suite(name).about}")


@suites.command()
def show(
    name: Annotated[str, typer.Argument(help="A suite's name, or a YAML file.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Show what a suite measures, from where, and what it lacks."""
    from ..evaluation.suite import read_suite

    found = read_suite(name)
    if as_json:
        facts = {key: _facts(task) for key, task in found.tasks.items()}
        typer.echo(
            json.dumps({"name": found.name, "about": found.about, "datasets": facts, "lacks": found.lacks}, indent=2)
        )
    else:
        typer.echo(_suite_text(found))


@suites.command()
def fetch(name: Annotated[str, typer.Argument(help="A suite's name, or a YAML file.")] = "3h-offline",
          into: Annotated[Path | None, typer.Option(help="Folder for the wheels.")] = None) -> None:  # fmt: skip
    """Download the wheels that hold a suite's records (with pip; they are not installed)."""
    from ..evaluation.sources import fetch as fetch_wheels
    from ..evaluation.suite import read_suite

    for path in fetch_wheels(read_suite(name), into):
        typer.echo(str(path))


def _facts(task: Task) -> dict[str, Any]:
    return {
        "title": task.title, "h": task.h, "dimension": task.dimension, "metric": task.metric, "key": task.key,
        "direction": task.direction, "source": dict(task.source), "max_new_tokens": task.max_new_tokens,
        "averaged": task.averaged,
    }  # fmt: skip


def _suite_text(suite: Suite) -> str:
    from ..evaluation.text import align

    rows = [["data set", "H", "dimension", "figure", "better", "from", "revision", "licence"]]
    rows += [
        [name, task.h, task.dimension, f"{task.metric}: {task.key}", task.direction, task.dataset_id,
         (task.revision or "-")[:12], str(task.source.get("licence", "-"))]
        for name, task in suite.tasks.items()
    ]  # fmt: skip
    lines = [f"{suite.name}: {suite.about}", "", *align(rows)]
    if suite.lacks:
        lines += ["", "It lacks:", *(f"  {name}: {why['reason']}" for name, why in suite.lacks.items())]
    return "\n".join(lines)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(evaluate)
    app.command()(report)
    app.add_typer(suites, name="suites")
