"""A graph of steps whose results are kept by content: what a step depends on names its folder.

A step's key is the hash of its action, its settings and the keys of its inputs; where files come from outside, their
digests are among the settings. So a changed method redoes what depends on it and nothing else, and a run that was
killed goes on. Each step runs in a process of its own: one that runs out of memory, is killed or crashes ends alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import OutputError, show
from ...evaluation.store import write_aside

DONE, FAILED, PARTIAL = "step.json", "failed.json", "partial"
#: raised when what a step writes changes its meaning, so that older results are made again
FORMAT = 1


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        name: its place in the results, such as `measure/test/static/full/ties`.
        action: which function does it (`actions.ACTIONS`).
        settings: all that its result depends on besides its inputs.
        inputs: names of the steps that it reads.
        paths: where files lie on this machine; they are no part of the key.
    """

    name: str
    action: str
    settings: Mapping[str, Any]
    inputs: tuple[str, ...] = ()
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What an action gets: a step, the folders of its inputs, and a folder of its own that survives being killed."""

    step: Step
    inputs: Mapping[str, Path]
    out: Path

    @property
    def settings(self) -> Mapping[str, Any]:
        """The step's settings."""
        return self.step.settings


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
            return State(step, folder, "done", _read(folder / DONE))
        if any(self.state(each).word in ("failed", "blocked") for each in step.inputs):
            return State(step, folder, "blocked", {})
        if (folder / FAILED).is_file():
            return State(step, folder, "failed", _read(folder / FAILED))
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

    def run(self, chosen: Sequence[str], tell: Callable[[str], None]) -> list[State]:
        """Do the chosen steps and what they need; what fails is told and does not stop the others.

        Returns:
            The states of the chosen steps and their inputs, in order.
        """
        wanted = self._needed(chosen)
        for number, name in enumerate(wanted, 1):
            before = self.state(name)
            mark = f"[{number}/{len(wanted)}] {name}"
            if before.word == "done":
                continue
            if before.word == "blocked":
                tell(f"{mark}: not run, for something that it reads failed")
                continue
            tell(f"{mark} ...")
            _do(Job(self.steps[name], {each: self.folder(each) for each in self.steps[name].inputs}, before.folder))
            after = self.state(name)
            said = "" if after.word == "done" else f" {after.word}: {after.facts.get('error', '')}"
            tell(f"{mark}: {after.facts.get('seconds', 0):.0f} s{said}")
        return [self.state(name) for name in wanted]

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


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path}: broken: {show(str(error))}; delete its folder, and the step is done again"
        ) from None


def _do(job: Job) -> None:
    """Run a step in a process of its own; its folder has step.json or failed.json afterwards."""
    partial = job.out / PARTIAL
    if (partial / DONE).is_file():  # done, and killed before its results were in their place
        _finish(partial, job.out)
        return
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{job.out}: cannot be written: {error.strerror or error}") from None
    (job.out / FAILED).unlink(missing_ok=True)
    start = time.perf_counter()
    process = _context().Process(target=_child, args=(Job(job.step, job.inputs, partial), job.out / "log.txt"))
    process.start()
    try:
        process.join()
    except BaseException:  # Ctrl-C: the step ends as well, and what it had done stays
        process.terminate()
        process.join()
        raise
    if process.exitcode == 0 and (partial / DONE).is_file():
        _finish(partial, job.out)
        return
    found = _read(partial / FAILED) if (partial / FAILED).is_file() else {}
    (partial / FAILED).unlink(missing_ok=True)
    if not found:
        signal = -(process.exitcode or 0)
        why = f"killed by signal {signal}" + (", often for want of memory" if signal == 9 else "")
        found = {"error": why if signal > 0 else f"ended with status {process.exitcode}"}
    found |= {"seconds": time.perf_counter() - start, "step": job.step.name}
    write_aside(job.out / FAILED, json.dumps(found, indent=1) + "\n")


def _finish(partial: Path, out: Path) -> None:
    """Move results out of `partial`; step.json last, for it says that all are there."""
    for path in sorted(partial.iterdir(), key=lambda path: path.name == DONE):
        target = out / path.name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        os.replace(path, target)
    partial.rmdir()


def _context() -> Any:
    """Processes that start with the libraries loaded, where the system can do that (a fork of a clean process)."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hf_merge3h.lab.comparison.actions"])
    return context


def _child(job: Job, log: Path) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start = time.perf_counter()
    with _logged(log, job.step.name):
        try:
            from .actions import ACTIONS

            facts = ACTIONS[job.step.action](job) or {}
        except BaseException as error:  # whatever it is, the parent tells it and goes on with the next step
            traceback.print_exc()
            said = (str(error).strip() or type(error).__name__).splitlines()[:12]
            failure = {"error": "\n".join(said), "type": type(error).__name__}
            write_aside(job.out / FAILED, json.dumps(failure, indent=1) + "\n")
            sys.stderr.flush()
            os._exit(1)
        told = {
            "step": job.step.name, "action": job.step.action, "settings": job.settings,
            "inputs": {name: folder.name for name, folder in job.inputs.items()},
            "seconds": time.perf_counter() - start, "peak_mb": _peak_megabytes(), **facts,
        }  # fmt: skip
        write_aside(job.out / DONE, json.dumps(told, indent=1, ensure_ascii=False, default=str) + "\n")


def _end_with_parent() -> None:
    """A run that was killed leaves no step behind that writes into folders of the next one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def _logged(path: Path, name: str) -> Iterator[None]:
    """What a step and its libraries print goes to a file beside its result."""
    with open(path, "a", encoding="utf-8", buffering=1) as file:
        file.write(f"== {name}, process {os.getpid()}\n")
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        yield


def _peak_megabytes() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)
