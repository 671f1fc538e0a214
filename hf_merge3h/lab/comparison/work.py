"""One step of a comparison, and doing it in a process of its own: one that runs out of memory ends alone."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

from ...errors import OutputError, show
from ...evaluation.store import write_aside

DONE, FAILED, PARTIAL = "step.json", "failed.json", "partial"


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


class Work:
    """A step being done in a process of its own; its folder has step.json or failed.json after `end`."""

    def __init__(self, job: Job, jobs: int = 1) -> None:
        self.job, self.partial, self.start = job, job.out / PARTIAL, time.perf_counter()
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{job.out}: cannot be written: {error.strerror or error}") from None
        (job.out / FAILED).unlink(missing_ok=True)
        told = Job(job.step, job.inputs, self.partial)
        self.process = _context().Process(target=_child, args=(told, job.out / "log.txt", _threads(jobs)))
        self.process.start()

    def end(self) -> None:
        """Wait, and put results, or what is known of a failure, in their place."""
        self.process.join()
        status = self.process.exitcode
        if status == 0 and rescued(self.job.out):
            return
        found = read_facts(self.partial / FAILED) if (self.partial / FAILED).is_file() else {}
        (self.partial / FAILED).unlink(missing_ok=True)
        if not found:
            why = f"killed by signal {-status}" + (", often for want of memory" if status == -9 else "")
            found = {"error": why if status < 0 else f"ended with status {status}"}
        found |= {"seconds": time.perf_counter() - self.start, "step": self.job.step.name}
        write_aside(self.job.out / FAILED, json.dumps(found, indent=1) + "\n")

    def stop(self) -> None:
        """End the process; what it had done stays."""
        self.process.terminate()
        self.process.join()


def ended(running: Mapping[str, Work]) -> list[str]:
    """The names of works whose processes have ended, as soon as one has."""
    names = {work.process.sentinel: name for name, work in running.items()}
    return [names[each] for each in connection.wait(list(names)) if isinstance(each, int)]


def rescued(out: Path) -> bool:
    """Whether a step's results are whole in `partial`; then they are moved to their place, step.json last."""
    partial = out / PARTIAL
    if not (partial / DONE).is_file():
        return False
    for path in sorted(partial.iterdir(), key=lambda path: path.name == DONE):
        target = out / path.name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        os.replace(path, target)
    partial.rmdir()
    return True


def _threads(jobs: int) -> int | None:
    """How many threads each of some steps has; None leaves it to OMP_NUM_THREADS or, alone, to the libraries."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return None if jobs == 1 or "OMP_NUM_THREADS" in os.environ else max(1, cores // jobs)


def _context() -> Any:
    """Processes that start with the libraries loaded, where the system can do that (a fork of a clean process)."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hf_merge3h.lab.comparison.actions"])
    return context


def _child(job: Job, log: Path, threads: int | None) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start = time.perf_counter()
    with _logged(log, job.step.name):
        try:
            import torch

            from .actions import ACTIONS

            if threads is not None:
                torch.set_num_threads(threads)
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


def read_facts(path: Path) -> dict[str, Any]:
    """What a step's file says.

    Raises:
        OutputError: it is broken.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path}: broken: {show(str(error))}; delete its folder, and the step is done again"
        ) from None
