"""A comparison that is small enough for tests: a tiny model, a dozen rows of each H, two methods."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from hf_merge3h.lab.comparison.actions import ACTIONS
from hf_merge3h.lab.comparison.graph import Graph
from hf_merge3h.lab.comparison.work import DONE, Job
from tests.evaluation import tiny

ROLES = ("helpfulness", "honesty", "harmlessness")
#: only what needs no judge and no programs
DATASETS = ("gold", "facts", "safe", "unsafe")


def suite(place: Path) -> Path:
    """The tiny suite without what a random model has no figure of."""
    path = tiny.suite(place, n=8, tokens=4)
    content = yaml.safe_load(path.read_text())
    content["datasets"] = {name: content["datasets"][name] for name in DATASETS}
    content["datasets"]["gold"]["averaged"] = True
    content["lacks"] = {}
    path.write_text(yaml.safe_dump(content))
    return path


def rows(role: str, count: int = 12) -> list[dict[str, str]]:
    answers = {"helpfulness": "It is {}.", "honesty": "Nobody knows {}.", "harmlessness": "I cannot help with {}."}
    return [{"prompt": f"{role} question number {k}?", "completion": answers[role].format(k)} for k in range(count)]


def lab(folder: Path, **changes: Any) -> Path:
    """Write base, data, suite and lab.yaml; returns the latter's path."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny.folder(folder / "base")
    (folder / "train").mkdir(exist_ok=True)
    for role in ROLES:
        (folder / "train" / f"{role}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(role)))
    suite(folder / "suite")
    content: dict[str, Any] = {
        "name": "small",
        "base": "base",
        "data": {role: f"train/{role}.jsonl" for role in ROLES},
        "training": {"full": {"steps": 3, "batch_size": 2, "learning_rate": 1e-3}},
        "paradigms": {"static": ["full"]},
        "methods": {"task_arithmetic": {}, "r_tsvm": {}},
        "evaluation": {"test": "suite/tiny.yaml", "limit": 8},
    }
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    path = folder / "lab.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def do(graph: Graph, names: Iterable[str]) -> None:
    """Do steps in this process: quicker than one process each."""
    for name in names:
        folder = graph.folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        step = graph.steps[name]
        facts = ACTIONS[step.action](Job(step, {each: graph.folder(each) for each in step.inputs}, folder)) or {}
        told = json.loads(json.dumps({"seconds": 1.0, "peak_mb": 1.0, **facts}, default=str))
        (folder / DONE).write_text(json.dumps(told))
