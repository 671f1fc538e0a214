"""`evaluate_3h`: ask models the questions of a suite, score what they say, and report."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SourceError, bad, show
from ..judges import Judge
from .answers import Answerer, ModelAnswerer, Predictions
from .endpoint import Endpoint
from .generate import Batching
from .items import Item, asked_hash
from .models import folder_of, opened
from .plan import Plan, Request, find_experts, judged_names, make_plan, run_facts
from .scoring import check_judge, judge_of, score_task
from .store import LOCK, Store, folder_name, locked, write_aside
from .suite import Suite, Task, read_suite, settings_hash

if TYPE_CHECKING:
    from .report import Report

log = logging.getLogger(__name__)
RUN = "run.json"


def evaluate_3h(
    models: Mapping[str, Any] | Any,
    suite: str | Path | Suite = "3h-offline",
    *,
    limit: int | None = None,
    datasets: Sequence[str] | None = None,
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
    progress: bool = True,
) -> Report:
    """Measure models over helpfulness, honesty and harmlessness, on the same items, and compare them.

    Args:
        models: name -> a Hub id, a folder (model or adapter), a live model, `(model, adapter)`, an `Endpoint` or
            `Predictions`. `base` and `merged` are what they say; others are experts. A single model is `merged`.
        suite: a suite's name, or a YAML file.
        limit: items a data set, drawn by the seed; all by default.
        datasets: only these of the suite.
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
        progress: show bars.

    Returns:
        The report; it is also in `out`, and where `merged` is a folder with merge3h.json, its results are in that file.

    Raises:
        RequestError: something is wrong with the request; nothing has been run then.
        SourceError: a model or data set cannot be had.
    """
    request = Request(
        _named(models), read_suite(suite), limit, judge, seed, dict(data or {}), tokenizer, device, dtype, batch_size,
        sandbox, skip_unreachable, progress, tuple(leave_out),
    )  # fmt: skip
    request.check(datasets)
    with tempfile.TemporaryDirectory() as scratch:
        return _run(request, datasets, Path(out) if out is not None else Path(scratch), roles or {})


def _named(models: Any) -> dict[str, Any]:
    if not isinstance(models, Mapping):
        return {"merged": models}
    if not models:
        raise bad("models", models, "at least one model")
    return {folder_name(str(name)): source for name, source in models.items()}


def _run(request: Request, datasets: Sequence[str] | None, out: Path, roles: Mapping[str, str]) -> Report:
    experts = find_experts(request.models, roles)
    plan = make_plan(request, datasets)
    facts = run_facts(request, plan, experts)
    _check_new(out)
    with locked(out):
        return _run_locked(request, plan, out, facts)


def _run_locked(request: Request, plan: Plan, out: Path, facts: dict[str, Any]) -> Report:
    from .report import Report

    _check_same(out, facts)
    write_aside(out / RUN, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    for name, source in request.models.items():
        _ask_model(request, plan, out, name, source, facts)
    for name in request.models:
        for task_name, items in plan.items.items():
            _score(request, request.suite.tasks[task_name], items, out, name)
    facts["warnings"] = request.warnings + _related(request, plan)
    facts["judge"] = check_judge(request.judge)  # once more: a model tells its commit when it is loaded
    write_aside(out / RUN, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    report = Report.read(out)
    report.save(out)
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


def _ask_model(request: Request, plan: Plan, out: Path, name: str, source: Any, facts: dict[str, Any]) -> None:
    if isinstance(source, (Endpoint, Predictions)):
        _ask_all(request, plan, out, name, source, facts)
        return
    base = request.models.get("base")
    with opened(
        name, source, base=None if isinstance(base, (Endpoint, Predictions)) else base, tokenizer=request.tokenizer,
        device=request.device, dtype=request.dtype,
    ) as model:  # fmt: skip
        batching = Batching(request.first_batch, lambda text: log.warning("%s: %s", name, text))
        _ask_all(request, plan, out, name, ModelAnswerer(model, batching, request.seed), facts)
        request.warnings += [f"{name}: {text}" for text in batching.halved]


def _ask_all(request: Request, plan: Plan, out: Path, name: str, answerer: Answerer, facts: dict[str, Any]) -> None:
    from tqdm.auto import tqdm

    for task_name, items in plan.items.items():
        task = request.suite.tasks[task_name]
        reason = answerer.refuses(task)
        if reason:
            facts["refused"].setdefault(task_name, {})[name] = reason
            continue
        store = Store(out / "items" / name / f"{task_name}.answers.jsonl")
        by = f"{answerer.identity}-{settings_hash(task)}"
        if any(str(row.get("by")).rpartition("-")[0] != by for row in store.rows.values()):
            raise bad(
                "out", str(out), f"answers of the same model: those of {name} to {task_name} are of another one",
                "give another folder, or delete its items there",
            )  # fmt: skip
        by_id = {item.id: item for item in items}
        asked = {item.id: f"{by}-{asked_hash(task, item)}" for item in items}
        missing = {item.id for item in items if store.rows.get(item.id, {}).get("by") != asked[item.id]}
        changed = sum(one in store.rows for one in missing)
        if changed:
            log.warning("%s: %s: %d items have changed since they were asked; they are again", name, task_name, changed)
        with tqdm(total=len(items), desc=f"{name}: {task_name}", disable=not request.progress, leave=False) as bar:
            for part in answerer.parts(task, items):
                wanted = [item for item in part if item.id in missing]
                bar.update(len(part) - len(wanted))
                if not wanted:
                    continue
                # else the whole part again: its composition may move the last bits of a float
                for rows in answerer.rows(task, wanted if answerer.alone else part):
                    kept = [row for row in rows if row["id"] in missing]
                    store.add({**row, "question": by_id[row["id"]].question, "by": asked[row["id"]]} for row in kept)
                    bar.update(len(kept))


def _score(request: Request, task: Task, items: Sequence[Item], out: Path, name: str) -> None:
    from tqdm.auto import tqdm

    folder = out / "items" / name
    answers = Store(folder / f"{task.name}.answers.jsonl").rows
    if not answers:
        return
    store = Store(folder / f"{task.name}.scores.jsonl")
    with tqdm(total=len(items), desc=f"{name}: scoring {task.name}", disable=not request.progress, leave=False) as bar:
        troubles = score_task(
            task, items, answers, store, judge=request.judge, sandbox=request.sandbox, tick=bar.update
        )
    if troubles:
        request.warnings.append(f"{name}, {task.name}: {len(troubles)} items without a verdict: {show(troubles[0])}")
