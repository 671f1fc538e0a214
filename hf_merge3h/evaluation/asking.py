"""Asking the models, one after the other: all items, or as many as a time limit allows."""

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
        """Each model in turn; under a limit each has an equal share of what is left, and gets no items that one
        before it had no time for.
        """
        models = self.request.models
        for place, (name, source) in enumerate(models.items()):
            if not any(self.plan.items.values()):
                return  # a model before had no time for a single item: the others need not be opened
            deadline = self.request.deadline.share(len(models) - place) if self.request.max_seconds else Deadline()
            try:
                deadline.check()  # opening takes time too
                with self._answerer(name, source) as answerer:
                    self._ask_one(name, answerer, deadline)
            except OutOfTimeError:
                log.info("%s: its time is up", name)
            if self.request.max_seconds is not None:
                self._keep_answered(name)

    @contextmanager
    def _answerer(self, name: str, source: Any) -> Iterator[Answerer]:
        if isinstance(source, (Endpoint, Predictions)):
            yield source
            return
        request, base = self.request, self.request.models.get("base")
        with opened(
            name, source, base=None if isinstance(base, (Endpoint, Predictions)) else base,
            tokenizer=request.tokenizer, device=request.device, dtype=request.dtype,
        ) as model:  # fmt: skip
            batching = Batching(request.first_batch, lambda text: log.warning("%s: %s", name, text))
            try:
                yield ModelAnswerer(model, batching, request.seed)
            finally:
                request.warnings += [f"{name}: {text}" for text in batching.halved]

    def _ask_one(self, name: str, answerer: Answerer, deadline: Deadline) -> None:
        suite, plan = self.request.suite, self.plan
        tasks = {}
        for task_name, items in plan.items.items():
            reason = answerer.refuses(suite.tasks[task_name])
            if reason:
                self.facts["refused"].setdefault(task_name, {})[name] = reason
            elif items:
                tasks[task_name] = _Asked(suite.tasks[task_name], items, self._path(name, task_name), answerer)
        order = list(tasks)
        if self.request.max_seconds is not None:
            order = quick_first({task_name: asked.task for task_name, asked in tasks.items()})
        tokens = {task_name: tasks[task_name].task.most_tokens for task_name in order}
        for task_name, part in parts({each: tasks[each].items for each in order}, tokens, deadline):
            self._ask_task(name, tasks[task_name], part, deadline)

    def _ask_task(self, name: str, asked: _Asked, items: Sequence[Item], deadline: Deadline) -> None:
        from tqdm.auto import tqdm

        quiet = self.request.progress is not True
        with tqdm(total=len(items), desc=f"{name}: {asked.task.name}", disable=quiet, leave=False) as bar:
            for done in asked.rows(items, deadline):
                bar.update(done)
                self.done += done
                if callable(self.request.progress):
                    share = max(self.done / self.total, self.request.deadline.spent)
                    self.request.progress(min(1.0, share), f"{name}: {asked.task.title}")

    def _keep_answered(self, name: str) -> None:
        for task_name, items in self.plan.items.items():
            if name not in self.facts["refused"].get(task_name, ()):
                rows = Store(self._path(name, task_name)).rows
                self.plan.items[task_name] = [item for item in items if item.id in rows]

    def _path(self, name: str, task_name: str) -> Path:
        return self.out / "items" / name / f"{task_name}.answers.jsonl"


class _Asked:
    """One data set asked of one model: what is on disk already is not asked again.

    Raises:
        RequestError: what is there was said by another model.
    """

    def __init__(self, task: Task, items: Sequence[Item], path: Path, answerer: Answerer) -> None:
        self.task, self.items, self.answerer, self.store = task, items, answerer, Store(path)
        by, found = f"{answerer.identity}-{settings_hash(task)}", self.store.rows
        name = path.parent.name
        if any(str(row.get("by")).rpartition("-")[0] != by for row in found.values()):
            raise bad(
                "out", str(path.parents[2]), f"answers of the same model: those of {name} to {task.name} are of "
                "another one", "give another folder, or delete its items there",
            )  # fmt: skip
        self.by: Mapping[str, str] = {item.id: f"{by}-{asked_hash(task, item)}" for item in items}
        self.missing = {item.id for item in items if found.get(item.id, {}).get("by") != self.by[item.id]}
        changed = sum(one in found for one in self.missing)
        if changed:
            log.warning("%s: %s: %d items have changed since they were asked; they are again", name, task.name, changed)

    def rows(self, items: Sequence[Item], deadline: Deadline) -> Iterator[int]:
        """Ask what is missing of some items, and keep it as it comes; how many are done by each step."""
        questions = {item.id: item.question for item in items}
        for part in self.answerer.parts(self.task, items):
            wanted = [item for item in part if item.id in self.missing]
            yield len(part) - len(wanted)
            if not wanted:
                continue
            deadline.check()
            # else the whole part again: its composition may move the last bits of a float
            for rows in self.answerer.rows(self.task, wanted if self.answerer.alone else part, deadline):
                kept = [row for row in rows if row["id"] in self.missing]
                self.store.add(self._kept(row, questions) for row in kept)
                yield len(kept)

    def _kept(self, row: Row, questions: Mapping[str, str]) -> Row:
        return {**row, "question": questions[row["id"]], "by": self.by[row["id"]]}
