"""A request, checked wholly before any model is loaded: which items of which sets, what is left out, and why."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Problems, RequestError, SourceError, bad, nearest
from ..sandbox import choose
from .answers import Predictions
from .endpoint import Endpoint
from .items import TRAINED, Item, make_items, question_hash, select
from .models import check_source, folder_of
from .pace import Deadline
from .scoring import can_score, cannot_judge, check_judge
from .sources import load
from .suite import NOT_ASKED, H, Suite, Task, settings_hash

_ROLES = {"helpful": "helpfulness", "honest": "honesty", "harmless": "harmlessness"}
_LIBRARIES = ("hf-merge3h", "torch", "transformers", "peft", "math-verify", "scipy")


@dataclass
class Request:
    """The arguments of `evaluate_3h`."""

    models: dict[str, Any]
    suite: Suite
    limit: int | None
    judge: Any
    seed: int
    data: dict[str, Any]
    tokenizer: Any
    device: str
    dtype: Any
    batch_size: int | None
    sandbox: str
    skip_unreachable: bool
    progress: bool | Callable[[float, str], None]
    leave_out: tuple[Any, ...] = ()
    max_seconds: float | None = None
    deadline: Deadline = field(default_factory=Deadline)
    warnings: list[str] = field(default_factory=list)

    def check(self, datasets: Sequence[str] | None) -> None:
        """Refuse arguments that are wrong; nothing is read yet."""
        for argument, value in (("limit", self.limit), ("batch_size", self.batch_size)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise bad(argument, value, "a whole number, 1 or more", "leave it out for all")
        if self.max_seconds is not None:
            limit: Any = self.max_seconds
            if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 < limit < math.inf:
                raise bad("max_seconds", limit, "a number of seconds above 0", "leave it out for no limit")
            self.deadline = Deadline(limit, self.deadline.start)
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise bad("seed", self.seed, "a whole number")
        for argument, names in (("datasets", datasets or ()), ("data", self.data)):
            for name in names:
                if name not in self.suite.tasks:
                    raise bad(argument, name, f"a data set of {self.suite.name}", nearest(name, self.suite.tasks))
        for name, source in self.models.items():
            if not isinstance(source, (Endpoint, Predictions)):
                check_source(name, source)
        check_judge(self.judge)

    @property
    def first_batch(self) -> int:
        """Prompts at a time, to begin with."""
        if self.batch_size is not None:
            return self.batch_size
        import torch

        return 64 if torch.cuda.is_available() else 16


@dataclass
class Plan:
    """What is asked: tasks with their items, what is not evaluated and why, what was left out.

    `revisions` says which state of its source each data set is; `asked` names the data sets asked for (None: all).
    """

    items: dict[str, list[Item]]
    not_evaluated: list[dict[str, str]]
    left_out: dict[str, int]
    revisions: dict[str, str | None]
    asked: list[str] | None


def find_experts(models: Mapping[str, Any], roles: Mapping[str, str]) -> dict[str, str | None]:
    """Models that are neither base nor merged, and the H that each is one of."""
    experts = [name for name in models if name not in ("base", "merged")]
    for name, h in roles.items():
        if name not in experts:
            hint = nearest(name, experts) if experts else "there is none: give one as --against NAME=MODEL"
            raise bad("roles", name, "an expert among the models, which base and merged are not", hint)
        if h not in H:
            raise bad(f"roles[{name!r}]", h, "helpfulness, honesty or harmlessness")
    found: dict[str, str | None] = {}
    for name in experts:
        start = next((h for word, h in _ROLES.items() if name.lower().startswith((word, h))), None)
        found[name] = roles.get(name, start)
    return found


def make_plan(request: Request, datasets: Sequence[str] | None) -> Plan:
    """Items of all data sets that can be had and scored; the rest with reasons."""
    suite = request.suite
    problems = Problems(
        "data sets cannot be had (`datasets` or --datasets names those to evaluate; skip_unreachable=True or "
        "--skip-unreachable leaves out the others, and says so)",
        SourceError,
    )
    plan = Plan(
        {},
        [{"dataset": name, "h": str(why["h"]), "reason": str(why["reason"])} for name, why in suite.lacks.items()],
        {},
        {},
        None if datasets is None else list(datasets),
    )
    trained = _trained_on([*map(folder_of, request.models.values()), *map(Path, request.leave_out)])
    for name, task in suite.tasks.items():
        reason = NOT_ASKED if datasets is not None and name not in datasets else _cannot(request, task)
        if not reason:
            try:
                loaded = load(task, suite, request.data.get(name))
                items, plan.revisions[name] = make_items(task, loaded.records), loaded.revision
            except SourceError as error:
                reason = str(error)
                if not request.skip_unreachable:
                    problems.add(reason)
        if reason:
            plan.not_evaluated.append({"dataset": name, "h": task.h, "reason": reason})
            continue
        kept = [item for item in items if question_hash(item.question) not in trained]
        plan.left_out[name] = len(items) - len(kept)
        if kept:
            plan.items[name] = select(kept, task.at_most(request.limit), request.seed)
        else:
            plan.not_evaluated.append(
                {"dataset": name, "h": task.h, "reason": "an expert was trained on all its questions"}
            )
    problems.raise_any()
    if not plan.items:
        reasons = "; ".join(f"{one['dataset']}: {one['reason']}" for one in plan.not_evaluated)
        raise RequestError(f"nothing of the suite {suite.name} can be evaluated: {reasons}")
    return plan


def _cannot(request: Request, task: Task) -> str:
    if task.form == "judged" and (reason := cannot_judge(request.judge, task)):
        return reason
    if not can_score(task):
        return f"{task.key} of {task.metric} is no mean over items; use another key"
    if task.form == "code":
        try:
            choose(request.sandbox)
        except RequestError as error:
            return str(error)
    return ""


def _trained_on(folders: Sequence[Path | None]) -> set[str]:
    """Hashes of questions that experts were trained on, as their folders record them."""
    found: set[str] = set()
    for folder in folders:
        path = folder / TRAINED if folder is not None else None
        if path is None or not path.is_file():
            continue
        try:
            found.update(str(one) for one in json.loads(path.read_text(encoding="utf-8"))["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{path}: holds no hashes of questions ({error}); mend it or take it away") from None
    return found


def run_facts(request: Request, plan: Plan, experts: Mapping[str, str | None]) -> dict[str, Any]:
    """What run.json says: all that a report needs beside the items."""
    suite = request.suite
    return {
        "suite": suite.name,
        "suite_digest": suite.digest,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: version for name in _LIBRARIES if (version := _version(name))},
        "judge": check_judge(request.judge),
        "seed": request.seed,
        "limit": request.limit,
        "max_seconds": request.max_seconds,
        "stopped": {},
        "models": {name: _shown(source) for name, source in request.models.items()},
        "experts": experts,
        "datasets": {name: _dataset_facts(request, plan, suite.tasks[name]) for name in plan.items},
        "asked": plan.asked,
        "not_evaluated": plan.not_evaluated,
        "left_out": plan.left_out,
        "refused": {},
        "warnings": [],
    }


def _dataset_facts(request: Request, plan: Plan, task: Task) -> dict[str, Any]:
    stand_in = request.data.get(task.name)
    return {
        "title": task.title, "h": task.h, "dimension": task.dimension, "metric": task.metric, "key": task.key,
        "direction": task.direction, "form": task.form, "averaged": task.averaged, "options": dict(task.options),
        "dataset_id": task.dataset_id + (f" (local file {Path(stand_in).name})" if stand_in is not None else ""),
        "dataset_revision": plan.revisions[task.name],
        "split": task.source.get("split"), "licence": task.source.get("licence"),
        "settings": settings_hash(task), "ids": [item.id for item in plan.items[task.name]],
    }  # fmt: skip


def judged_names(source: Any) -> list[str]:
    """What a model is called, and what it was made from, as far as its folder says."""
    folder = folder_of(source)
    names = [_shown(source)]
    for file in ("adapter_config.json", "merge3h.json"):
        if folder is not None and (folder / file).is_file():
            try:
                told = json.loads((folder / file).read_text(encoding="utf-8"))
                names += [str(told.get("base_model_name_or_path") or "")]
                names += [str(parent["source"]) for parent in told.get("models", ())]
            except (ValueError, AttributeError, KeyError, TypeError, OSError):
                continue  # loading it says what is wrong
    return names


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _shown(source: Any) -> str:
    if isinstance(source, tuple):
        return " + ".join(_shown(part) for part in source)
    if isinstance(source, Endpoint):
        return f"{source.model} at {source.url}"
    if isinstance(source, Predictions):
        return f"answers in {source.path.name}"
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    return str(getattr(source, "name_or_path", "") or type(source).__name__)
