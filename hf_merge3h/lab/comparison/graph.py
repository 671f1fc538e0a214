"""A graph of steps whose results are kept by content: what a step depends on names its folder.

A step's key is the hash of its action, its settings and the keys of its inputs; where files come from outside, their
digests are among the settings. So a changed method redoes what depends on it and nothing else, and a run that was
killed goes on. Each step runs in a process of its own: one that runs out of memory, is killed or crashes ends alone.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .work import DONE, FAILED, PARTIAL, Job, Step, Work, ended, read_facts, rescued

#: raised when what a step writes changes its meaning, so that older results are made again
FORMAT = 1


@dataclass(frozen=True)
class State:
    """Where a step stands: `done`, `failed`, `blocked` (an input failed), `begun` or `open`."""

    step: Step
    folder: Path
    word: str
    facts: Mapping[str, Any]


class Graph:
    """Steps in the order in which they can be done, and the folder of their results."""

    def __init__(self, steps: Sequence[Step], out: Path) -> None:
        self.steps = {step.name: step for step in steps}
        self.out = out
        for step in steps:
            missing = [name for name in step.inputs if name not in self.steps]
            assert not missing, f"{step.name} reads {missing}, which no step makes"

    @functools.cache  # noqa: B019  a graph lives as long as its command
    def key(self, name: str) -> str:
        """Hash of all that a step's result depends on."""
        step = self.steps[name]
        told = [FORMAT, step.action, step.settings, [self.key(each) for each in step.inputs]]
        text = json.dumps(told, sort_keys=True, ensure_ascii=False, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def folder(self, name: str) -> Path:
        """Where a step's result lies."""
        return self.out / "steps" / name.replace(" ", "_") / self.key(name)

    def state(self, name: str) -> State:
        """Where a step stands."""
        step, folder = self.steps[name], self.folder(name)
        if (folder / DONE).is_file():
            return State(step, folder, "done", read_facts(folder / DONE))
        if any(self.state(each).word in ("failed", "blocked") for each in step.inputs):
            return State(step, folder, "blocked", {})
        if (folder / FAILED).is_file():
            return State(step, folder, "failed", read_facts(folder / FAILED))
        begun = (folder / PARTIAL).is_dir()
        return State(step, folder, "begun" if begun else "open", {})

    def states(self) -> list[State]:
        """All steps' states, in order."""
        return [self.state(name) for name in self.steps]

    def stale(self) -> list[Path]:
        """Folders of results that no step of this graph reads or makes: of other settings, of methods that went."""
        wanted = {self.folder(name) for name in self.steps}
        found = (path.parent for kind in (DONE, FAILED) for path in (self.out / "steps").rglob(kind))
        return sorted({path for path in found if path not in wanted and path.name != PARTIAL})

    def run(self, chosen: Sequence[str], tell: Callable[[str], None], jobs: int = 1) -> list[State]:
        """Do the chosen steps and what they need, `jobs` at once; what fails is told and does not stop the others.

        Each step has its share of the processor's cores, unless OMP_NUM_THREADS says how many it has.

        Returns:
            The states of the chosen steps and their inputs, in order.
        """
        wanted = self._needed(chosen)
        mark = {name: f"[{number}/{len(wanted)}] {name}" for number, name in enumerate(wanted, 1)}
        waiting, running = list(wanted), dict[str, Work]()
        try:
            while waiting or running:
                name = self._next(waiting, running, jobs) if len(running) < jobs else None
                if name is None:
                    for name in ended(running):
                        running.pop(name).end()
                        after = self.state(name)
                        said = "" if after.word == "done" else f" {after.word}: {after.facts.get('error', '')}"
                        tell(f"{mark[name]}: {after.facts.get('seconds', 0):.0f} s{said}")
                    continue
                waiting.remove(name)
                word = self.state(name).word
                if word == "blocked":
                    tell(f"{mark[name]}: not run, for something that it reads failed")
                elif word != "done" and not rescued(self.folder(name)):
                    tell(f"{mark[name]} ...")
                    running[name] = Work(self._job(name), jobs)
        except BaseException:  # Ctrl-C: steps end as well, and what they had done stays
            for work in running.values():
                work.stop()
            raise
        return [self.state(name) for name in wanted]

    def _next(self, waiting: Sequence[str], running: Mapping[str, Work], jobs: int) -> str | None:
        """A step that reads nothing that is still to be done: the first, or, where several are done at once, that with
        the longest way behind it, so that the last hours are not one job's.
        """
        pending = {*waiting, *running}
        ready = (name for name in waiting if not pending.intersection(self.steps[name].inputs))
        return next(ready, None) if jobs == 1 else max(ready, key=self._behind.__getitem__, default=None)

    @functools.cached_property
    def _behind(self) -> Mapping[str, int]:
        """How many steps must follow each, one after another, before all is done."""
        found = dict.fromkeys(self.steps, 0)
        for name in reversed(self.steps):
            for each in self.steps[name].inputs:
                found[each] = max(found[each], found[name] + 1)
        return found

    def _job(self, name: str) -> Job:
        return Job(self.steps[name], {each: self.folder(each) for each in self.steps[name].inputs}, self.folder(name))

    def _needed(self, chosen: Sequence[str]) -> list[str]:
        needed: set[str] = set()

        def add(name: str) -> None:
            if name not in needed:
                needed.add(name)
                for each in self.steps[name].inputs:
                    add(each)

        for name in chosen:
            add(name)
        return [name for name in self.steps if name in needed]
