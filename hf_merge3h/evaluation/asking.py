"""Asking the models: all items, or as many as a time limit allows.

Models are asked one after the other; adapters of one live PeftModel together, in one batch by their names.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RequestError, bad
from .answers import Answerer, ModelAnswerer, Predictions
from .endpoint import Endpoint
from .generate import Batching
from .items import Item, asked_hash
from .models import opened
from .pace import Deadline, OutOfTimeError, parts, quick_first
from .plan import Plan, Request
from .store import Row, Store
from .suite import Task, settings_hash
from .together import opened_together, together

log = logging.getLogger(__name__)


def ask_models(request: Request, plan: Plan, out: Path, facts: dict[str, Any]) -> None:
    """Ask all models; where the time is limited, `plan` and `facts` then name the items that all have answered.

    Raises:
        RequestError: no item was answered by all in the time there was.
    """
    wanted = {name: len(items) for name, items in plan.items.items()}
    _Run(request, plan, out, facts, sum(wanted.values()) * len(request.models)).ask()
    if request.max_seconds is None:
        return
    for name, count in wanted.items():
        facts["datasets"][name]["ids"] = [item.id for item in plan.items[name]]
        if len(plan.items[name]) < count:
            facts["stopped"][name] = {"answered": len(plan.items[name]), "of": count}
        if not plan.items[name]:
            del plan.items[name]
            reason = f"no time was left: of {count} items all models answered none within {request.max_seconds:g} s"
            facts["not_evaluated"].append({"dataset": name, "h": request.suite.tasks[name].h, "reason": reason})
    if not plan.items:
        raise RequestError(
            f"max_seconds={request.max_seconds:g}: too short for {len(request.models)} models: none of {len(wanted)} "
            "data sets has an item that all of them answered; give more time, or fewer models or data sets"
        )


@dataclass
class _Run:
    request: Request
    plan: Plan
    out: Path
    facts: dict[str, Any]
    total: int
    done: int = field(default=0)

    def ask(self) -> None:
        """Each model in turn, or those that can be asked together; under a limit each has an equal share of what is
        left, and gets no items that one before it had no time for.
        """
        waiting = len(self.request.models)
        for names in together(self.request.models):
            if not any(self.plan.items.values()):
                return  # a model before had no time for a single item: the others need not be opened
            limited, who = self.request.max_seconds is not None, _called(names)
            deadline = self.request.deadline.share(waiting, len(names)) if limited else Deadline()
            waiting -= len(names)
            try:
                deadline.check()  # opening takes time too
                with self._answerer(names) as answerer:
                    self._ask_all(names, answerer, deadline)
            except OutOfTimeError:
                log.info("%s: the time is up", who)
            if limited:
                for name in names:
                    self._keep_answered(name)

    @contextmanager
    def _answerer(self, names: Sequence[str]) -> Iterator[Answerer]:
        request, who = self.request, _called(names)
        source, base = request.models[names[0]], request.models.get("base")
        if isinstance(source, (Endpoint, Predictions)):
            yield source
            return
        if len(names) > 1:
            adapters = [request.models[name][1] for name in names]
            opening = opened_together(who, source[0], adapters, request.tokenizer)
        else:
            opening = opened(
                who, source, base=None if isinstance(base, (Endpoint, Predictions)) else base,
                tokenizer=request.tokenizer, device=request.device, dtype=request.dtype,
            )  # fmt: skip
        with opening as model:
            batching = Batching(request.first_batch, lambda text: log.warning("%s: %s", who, text))
            try:
                yield ModelAnswerer(model, batching, request.seed)
            finally:
                request.warnings += [f"{who}: {text}" for text in batching.halved]

    def _ask_all(self, names: Sequence[str], answerer: Answerer, deadline: Deadline) -> None:
        suite, plan = self.request.suite, self.plan
        tasks = {}
        for task_name, items in plan.items.items():
            reason = answerer.refuses(suite.tasks[task_name])
            if reason:
                self.facts["refused"].setdefault(task_name, {}).update(dict.fromkeys(names, reason))
            elif items:
                paths = [self._path(name, task_name) for name in names]
                tasks[task_name] = _Asked(suite.tasks[task_name], items, paths, answerer)
        order = list(tasks)
        if self.request.max_seconds is not None:
            order = quick_first({task_name: asked.task for task_name, asked in tasks.items()})
        tokens = {task_name: tasks[task_name].task.most_tokens for task_name in order}
        for task_name, part in parts({each: tasks[each].items for each in order}, tokens, deadline):
            self._ask_task(_called(names), len(names), tasks[task_name], part, deadline)

    def _ask_task(self, who: str, models: int, asked: _Asked, items: Sequence[Item], deadline: Deadline) -> None:
        from tqdm.auto import tqdm

        quiet = self.request.progress is not True
        with tqdm(total=len(items), desc=f"{who}: {asked.task.name}", disable=quiet, leave=False) as bar:
            for done in asked.rows(items, deadline):
                bar.update(done)
                self.done += done * models
                if callable(self.request.progress):
                    share = max(self.done / self.total, self.request.deadline.spent)
                    self.request.progress(min(1.0, share), f"{who}: {asked.task.title}")

    def _keep_answered(self, name: str) -> None:
        for task_name, items in self.plan.items.items():
            if name not in self.facts["refused"].get(task_name, ()):
                rows = Store(self._path(name, task_name)).rows
                self.plan.items[task_name] = [item for item in items if item.id in rows]

    def _path(self, name: str, task_name: str) -> Path:
        return self.out / "items" / name / f"{task_name}.answers.jsonl"


def _called(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} models"


class _Asked:
    """One data set asked of one model, or of those that are asked together: what is on disk already is not asked again.

    Args:
        paths: where the answers of each are kept.

    Raises:
        RequestError: what is there was said by another model.
    """

    def __init__(self, task: Task, items: Sequence[Item], paths: Sequence[Path], answerer: Answerer) -> None:
        self.task, self.items, self.answerer = task, items, answerer
        self.kept = [
            _Kept(task, items, path, identity) for path, identity in zip(paths, answerer.identities, strict=True)
        ]

    def rows(self, items: Sequence[Item], deadline: Deadline) -> Iterator[int]:
        """Ask what is missing of some items, and keep it as it comes; how many items are done by each step."""
        for part in self.answerer.parts(self.task, items):
            wanted = [item for item in part if any(item.id in kept.missing for kept in self.kept)]
            yield len(part) - len(wanted)
            if not wanted:
                continue
            deadline.check()
            ids = {item.id for item in wanted}
            # else the whole part again: its composition may move the last bits of a float
            for found in self.answerer.rows(self.task, wanted if self.answerer.alone else part, deadline):
                for kept, rows in zip(self.kept, found, strict=True):
                    kept.add(rows)
                yield sum(row["id"] in ids for row in found[0])


class _Kept:
    """One model's answers to one data set, on disk."""

    def __init__(self, task: Task, items: Sequence[Item], path: Path, identity: str) -> None:
        self.store = Store(path)
        by, found = f"{identity}-{settings_hash(task)}", self.store.rows
        name = path.parent.name
        if any(str(row.get("by")).rpartition("-")[0] != by for row in found.values()):
            raise bad(
                "out", str(path.parents[2]), f"answers of the same model: those of {name} to {task.name} are of "
                "another one", "give another folder, or delete its items there",
            )  # fmt: skip
        self.questions = {item.id: item.question for item in items}
        self.by: Mapping[str, str] = {item.id: f"{by}-{asked_hash(task, item)}" for item in items}
        self.missing = {item.id for item in items if found.get(item.id, {}).get("by") != self.by[item.id]}
        changed = sum(one in found for one in self.missing)
        if changed:
            log.warning("%s: %s: %d items have changed since they were asked; they are again", name, task.name, changed)

    def add(self, rows: Sequence[Row]) -> None:
        """Keep what was missing."""
        wanted = [row for row in rows if row["id"] in self.missing]
        self.store.add({**row, "question": self.questions[row["id"]], "by": self.by[row["id"]]} for row in wanted)
