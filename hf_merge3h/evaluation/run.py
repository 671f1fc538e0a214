"""`evaluate_3h`: ask models the questions of a suite, score what they say, and report."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SourceError, bad, show
from ..judges import Judge
from .asking import ask_models
from .items import Item
from .models import folder_of
from .plan import Plan, Request, find_experts, judged_names, make_plan, run_facts
from .scoring import check_judge, judge_of, score_task
from .store import LOCK, Store, folder_name, locked, write_aside
from .suite import Suite, Task, read_suite, shortened

if TYPE_CHECKING:
    from .report import Report

RUN = "run.json"


def evaluate_3h(
    models: Mapping[str, Any] | Any,
    suite: str | Path | Suite = "3h-offline",
    *,
    limit: int | None = None,
    max_seconds: float | None = None,
    datasets: Sequence[str] | None = None,
    shorten: Mapping[str, int] | None = None,
    judge: Any = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    data: Mapping[str, str | os.PathLike[str]] | None = None,
    roles: Mapping[str, str] | None = None,
    tokenizer: Any = None,
    device: str = "auto",
    dtype: Any = "auto",
    batch_size: int | None = None,
    sandbox: str = "auto",
    leave_out: Sequence[str | os.PathLike[str]] = (),
    skip_unreachable: bool = False,
    save_report: bool = True,
    progress: bool | Callable[[float, str], None] = True,
) -> Report:
    """Measure models over helpfulness, honesty and harmlessness, on the same items, and compare them.

    Args:
        models: name -> a Hub id, a folder (model or adapter), a live model, `(model, adapter)`, an `Endpoint`,
            `Predictions`, or a function without arguments that opens a live model when its turn comes. `base` and
            `merged` are what they say; others are experts. A single model is `merged`.
        suite: a suite's name, or a YAML file.
        limit: items a data set, drawn by the seed; all by default.
        max_seconds: stop asking after so long: how many items that makes follows from the speed, the same of all
            models; the report says what was left out. Scoring is not counted, which for rules takes seconds.
        datasets: only these of the suite.
        shorten: data set -> tokens that an answer may have, where the suite allows more: for a quick look, as at
            refusals, which show in a first sentence. The report's title of the data set says so.
        judge: for data sets that need one (`hf_merge3h.judges`), or a dict of metric and judge; data sets without one
            are named as not evaluated.
        out: folder of the items. Where it holds items of the same request, the run goes on from there; what has changed
            since (a question, a reference, the judge) is done again.
        seed: of the choice of items, of sampling and of resampling.
        data: data set -> local file in its place.
        roles: expert -> helpfulness, honesty or harmlessness; by default what the name starts with.
        tokenizer: of live models that do not say where theirs is.
        device: auto, cpu, cuda, mps.
        dtype: "auto" is float32 on CPUs, the checkpoint's own elsewhere.
        batch_size: prompts at a time, to begin with; halved where memory does not do.
        sandbox: for generated programs, see docs/SANDBOX.md.
        leave_out: folders of adapters whose training questions are left out; those of evaluated folders are anyway.
        skip_unreachable: name data sets that cannot be had as not evaluated, instead of an error.
        save_report: also write the report into `out` (report.json, report.md, report.html with its pictures).
        progress: show bars; or a function that is called with the share that is done and with what is being done. What
            it raises stops the run, and what was answered is kept.

    Returns:
        The report; it is also in `out`, and where `merged` is a folder with merge3h.json, its results are in that file.

    Raises:
        RequestError: something is wrong with the request; nothing has been run then.
            Also where `max_seconds` was too short for a single item of all models.
        SourceError: a model or data set cannot be had.
    """
    request = Request(
        _named(models), shortened(read_suite(suite), shorten or {}), limit, judge, seed,
        dict(data or {}), tokenizer, device, dtype, batch_size,
        sandbox, skip_unreachable, progress, tuple(leave_out), max_seconds,
    )  # fmt: skip
    request.check(datasets)
    if out is not None:
        return _run(request, datasets, Path(out), roles or {}, save_report)
    with tempfile.TemporaryDirectory() as scratch:
        return _run(request, datasets, Path(scratch), roles or {}, False)


def _named(models: Any) -> dict[str, Any]:
    if not isinstance(models, Mapping):
        return {"merged": models}
    if not models:
        raise bad("models", models, "at least one model")
    return {folder_name(str(name)): source for name, source in models.items()}


def _run(request: Request, datasets: Sequence[str] | None, out: Path, roles: Mapping[str, str], save: bool) -> Report:
    experts = find_experts(request.models, roles)
    plan = make_plan(request, datasets)
    facts = run_facts(request, plan, experts)
    _check_new(out)
    with locked(out):
        report = _run_locked(request, plan, out, facts)
        if save:
            report.save(out)
        return report


def _run_locked(request: Request, plan: Plan, out: Path, facts: dict[str, Any]) -> Report:
    from .report import Report

    _check_same(out, facts)
    write_aside(out / RUN, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    ask_models(request, plan, out, facts)
    for name in request.models:
        for task_name, items in plan.items.items():
            _score(request, request.suite.tasks[task_name], items, out, name)
    facts["warnings"] = request.warnings + _related(request, plan)
    facts["judge"] = check_judge(request.judge)  # once more: a model tells its commit when it is loaded
    write_aside(out / RUN, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    report = Report.read(out)
    folder = folder_of(request.models.get("merged"))
    if folder is not None:
        report.write_into(folder)
    return report


def _check_new(out: Path) -> None:
    """Refuse a folder that holds something else; one that another run has just begun has a lock at least."""
    if out.exists() and not out.is_dir():
        raise bad("out", str(out), "a folder", "it is a file")
    if out.is_dir() and any(out.iterdir()) and not any((out / one).exists() for one in (RUN, LOCK)):
        raise bad("out", str(out), "a new folder, or one with items of the same request")


def _related(request: Request, plan: Plan) -> list[str]:
    """Warnings where a judge and what it judges are of one family."""
    judged = [name for source in request.models.values() for name in judged_names(source)]
    tasks = [request.suite.tasks[name] for name in plan.items]
    judges = [judge_of(request.judge, task) for task in tasks if task.form == "judged"]
    told = [judge.related(judged) for judge in judges if isinstance(judge, Judge)]
    return list(dict.fromkeys(text for text in told if text))


def _check_same(out: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a folder whose items are of another request: their figures would be mixed."""
    path = out / RUN
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        differ = [key for key in ("suite", "seed") if before[key] != facts[key]]
        differ += [
            f"settings of {name}" for name, one in facts["datasets"].items()
            if name in before["datasets"] and before["datasets"][name]["settings"] != one["settings"]
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError):
        raise SourceError(f"{path}: is broken; give another folder as out, or delete this one") from None
    if differ:
        raise bad(
            "out",
            str(out),
            f"items of the same request, and these differ in: {', '.join(differ)}",
            "give another folder",
        )


def _score(request: Request, task: Task, items: Sequence[Item], out: Path, name: str) -> None:
    from tqdm.auto import tqdm

    folder = out / "items" / name
    answers = Store(folder / f"{task.name}.answers.jsonl").rows
    if not answers:
        return
    store = Store(folder / f"{task.name}.scores.jsonl")
    quiet = request.progress is not True
    with tqdm(total=len(items), desc=f"{name}: scoring {task.name}", disable=quiet, leave=False) as bar:
        troubles = score_task(
            task, items, answers, store, judge=request.judge, sandbox=request.sandbox, tick=bar.update
        )
    if troubles:
        request.warnings.append(f"{name}, {task.name}: {len(troubles)} items without a verdict: {show(troubles[0])}")
