"""`--hours N`: as many steps, items and trials as a probe of this machine says will fit, never more than asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...errors import MergeError, SourceError, bad, show
from ...evaluation.store import write_aside
from .config import Lab, Training
from .graph import Graph, State
from .steps import graph_of
from .work import Step

BUDGET = "budget.json"
#: shares of the time: what is trained, what is measured on the test split, what is chosen on the development split
_SHARES = {"train": 0.45, "test": 0.35, "development": 0.20}
_LEAST = {"steps": 10, "limit": 8, "trials": 2}
_PROBE_STEPS, _PROBE_ITEMS = 3, 4


def within(lab: Lab, hours: float, out: Path, tell: Callable[[str], None], jobs: int = 1) -> Lab:
    """The comparison cut to a time; what was settled once for a folder stays, so that a resumed run is the same one.

    Args:
        lab, hours, out: the comparison, the time, and the run's folder.
        tell: is told what is found.
        jobs: steps done at once; the probe is as many at a time, so its speeds are those that the run will see.

    Raises:
        RequestError: `hours` is no time, or another one than the folder's run was settled for.
        MergeError: the probe failed.
    """
    if not 0 < hours < 10_000:
        raise bad("--hours", hours, "a number of hours above 0")
    path = out / BUDGET
    if path.exists():
        before = _read(path)
        if before["hours"] != hours:
            raise bad(
                "--hours", hours, f"{before['hours']}, for which this run was settled",
                f"leave --hours out to go on, or delete {path} to settle it anew",
            )  # fmt: skip
        return settled(lab, out)
    tell("probing: a few training steps and items, to see how much fits")
    told = {"hours": hours, **plan(lab, hours * 3600 * jobs, probe(lab, out, jobs))}
    write_aside(path, json.dumps(told, indent=1) + "\n")
    tell(f"settled: {json.dumps({key: told[key] for key in ('steps', 'limit', 'trials')})}")
    return settled(lab, out)


def settled(lab: Lab, out: Path) -> Lab:
    """The comparison as a folder's run was cut, where it was."""
    path = out / BUDGET
    if not path.exists():
        return lab
    told = _read(path)
    training = {kind: _shortened(each, told["steps"][kind]) for kind, each in lab.training.items()}
    tuning = lab.tuning
    if tuning is not None:
        tuning = replace(tuning, trials=told["trials"], limit=told["tuning_limit"])
    return replace(lab, training=training, limit=told["limit"], tuning=tuning)


def _shortened(training: Training, steps: int) -> Training:
    """Fewer steps, of all experts alike."""
    roles = {
        role: {**changes, "steps": max(1, round(changes["steps"] * steps / training.steps))}
        if "steps" in changes
        else changes
        for role, changes in training.roles.items()
    }
    return replace(training, steps=steps, roles=roles)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: broken: {show(str(error))}; delete it, and the run is settled anew") from None


def probe(lab: Lab, out: Path, jobs: int = 1) -> dict[str, Any]:
    """Seconds of a training step of each kind, and of an item of each data set; merging counts as some items."""
    short = replace(
        lab,
        training={kind: replace(each, steps=_PROBE_STEPS, roles={}) for kind, each in lab.training.items()},
        limit=_PROBE_ITEMS,
    )
    place = out / "probe"
    graph = graph_of(short, place)
    names = ["measure/test/base", *(f"train/static/{kind}/{lab.order[0]}" for kind in lab.training)]
    names = [name for name in names if name in graph.steps]
    states = {state.step.name: state for state in graph.run(names, lambda _: None, jobs)}
    failed = [state for state in states.values() if state.word != "done"]
    if failed:
        raise MergeError(f"the probe failed: {failed[0].step.name}: {failed[0].facts.get('error', failed[0].word)}")
    found = {
        "item": _seconds(states["measure/test/base"]) / _PROBE_ITEMS,
        "step": {
            name.split("/")[2]: _seconds(states[name]) / _PROBE_STEPS for name in names if name.startswith("train/")
        },
    }
    shutil.rmtree(place)
    return found


def _seconds(state: State) -> float:
    return float(state.facts["seconds"])


def plan(lab: Lab, seconds: float, speed: Mapping[str, Any]) -> dict[str, Any]:
    """Divide a time among training, test and development, given the speeds.

    Returns:
        `steps` by kind, `limit`, `trials`, `tuning_limit`, and the speeds that they follow from.
    """
    graph = graph_of(lab, Path("nowhere"))
    steps = {}
    load = sum(_train_cost(step, lab, speed) for step in graph.steps.values())
    share = min(1.0, seconds * _SHARES["train"] / load) if load else 1.0
    for kind, training in lab.training.items():
        steps[kind] = (
            max(_LEAST["steps"], int(training.steps * share)) if training.steps > _LEAST["steps"] else training.steps
        )
    tests = _count(graph, "measure/test")
    limit = _clipped(seconds * _SHARES["test"] / max(tests, 1) / speed["item"], _LEAST["limit"], lab.limit)
    told = {"steps": steps, "limit": limit, "trials": 0, "tuning_limit": 0, "seconds_per": speed}
    tuning = lab.tuning
    if tuning is None:
        return told
    rest = max(0.0, seconds * _SHARES["development"] - _count(graph, "measure/development") * limit * speed["item"])
    each = _count(graph, "tune") * min(tuning.limit, limit) * speed["item"]
    trials = _clipped(rest / each if each else tuning.trials, _LEAST["trials"], tuning.trials)
    return {**told, "trials": trials, "tuning_limit": min(tuning.limit, limit), "asked": asdict(tuning)}


def _train_cost(step: Step, lab: Lab, speed: Mapping[str, Any]) -> float:
    if step.action != "train":
        return 0.0
    return float(step.settings["steps"] * speed["step"].get(step.settings["kind"], 0.0))


def _count(graph: Graph, prefix: str) -> int:
    return sum(name.startswith(prefix + "/") for name in graph.steps)


def _clipped(value: float, least: int, most: int | None) -> int:
    found = max(least, int(value))
    return found if most is None else min(found, most)
