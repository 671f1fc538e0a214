"""Who carries out the steps of a streamed merge: this process and its threads, or several processes.

The kernels of a step are short (some microseconds), and between them Python holds its lock: two threads gain a
quarter, two processes gain all of a second core. Processes are forked, so that nothing is imported or opened again, and
only where that is safe. Which of them does a step changes no bit of it.
"""

from __future__ import annotations

import collections
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Self, TypeVar

import torch

from ..errors import MergeError

_MOST = 8  # workers
_WORTH_A_PROCESS = 1 << 24  # entries of the output: a fork and its end cost some hundredths of a second

Result = TypeVar("Result")


class Pool:
    """Maps over pieces of a tensor, results in order, only so many at a time.

    Args:
        workers: how many threads; with one, the caller does the work.
        stopped: asked before each piece whether to give up.
    """

    def __init__(self, workers: int, stopped: Callable[[], bool] = lambda: False) -> None:
        self._workers, self._stopped = workers, stopped
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="merge") if workers > 1 else None

    def map(self, function: Callable[[int], Result], starts: range) -> Iterator[Result]:
        """The function at each start, in order."""
        if len(starts) < 2 or self._executor is None:
            for start in starts:
                if self._stopped():
                    raise KeyboardInterrupt
                yield function(start)
            return
        waiting: collections.deque[Future[Result]] = collections.deque()
        try:
            for start in starts:
                waiting.append(self._executor.submit(function, start))
                if len(waiting) > 2 * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End the threads."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)


#: What is done at one name, over a pool.
Work = Callable[[str, Pool], Any]


class Crew:
    """Does the work at each name: iterate for names and results, as they are done.

    On entering, its processes are there; threads that are started later do not matter to them.

    Args:
        names: in the order in which they are begun.
        work: must not depend on what it has done at another name; its results are sent between processes.
        entries: of all tensors together.
        forked: whether other processes may do it, as far as the work goes.
    """

    def __init__(self, names: Sequence[str], work: Work, entries: int, *, forked: bool) -> None:
        self._names, self._work = names, work
        count = workers()
        worth = min(count, len(names)) > 1 and entries >= _WORTH_A_PROCESS
        self._crew: _Processes | Pool = _Processes(count) if forked and worth and _may_fork() else Pool(count)

    def __enter__(self) -> Self:
        if isinstance(self._crew, _Processes):
            self._crew.begin(self._names, self._work)
        return self

    def __exit__(self, *problem: object) -> None:
        self._crew.close()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        if isinstance(self._crew, _Processes):
            yield from self._crew.done()
            return
        for name in self._names:
            yield name, self._work(name, self._crew)


def workers() -> int:
    """How many there are, where there is enough to do."""
    return min(_MOST, _cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _may_fork() -> bool:
    """A fork has only the thread that asked for it: a lock that another one holds would never be released."""
    others = [each for each in threading.enumerate() if each is not threading.current_thread()]
    return (
        sys.platform == "linux"
        and threading.current_thread() is threading.main_thread()
        and all(type(each).__module__.startswith("tqdm") for each in others)  # its clock; workers show no progress
        and not torch.cuda.is_initialized()
        and not multiprocessing.current_process().daemon
    )


class _Processes:
    """Forked workers, each of which takes the next name when it has done one."""

    def __init__(self, count: int) -> None:
        self._count, self._context = count, multiprocessing.get_context("fork")
        self._stop = self._context.Event()
        self._executor: ProcessPoolExecutor | None = None
        self._futures: dict[Future[Any], str] = {}

    def begin(self, names: Sequence[str], work: Work) -> None:
        """Fork, and hand out the names."""
        self._executor = ProcessPoolExecutor(self._count, self._context, _begin, (work, self._stop.is_set, os.getpid()))
        with (
            warnings.catch_warnings()
        ):  # Python 3.12 warns of native threads (BLAS), which hold no lock while they wait
            warnings.simplefilter("ignore", DeprecationWarning)
            self._futures = {self._executor.submit(_do, name): name for name in names}

    def done(self) -> Iterator[tuple[str, Any]]:
        """Names and results, as they come."""
        try:
            for future in as_completed(self._futures):
                yield self._futures[future], future.result()
        except BrokenProcessPool:
            raise MergeError(
                "a process of the merge was ended from outside, perhaps for lack of memory; nothing was written: "
                "free some memory and try again"
            ) from None

    def close(self) -> None:
        """Let each worker end the piece that it is at, and wait for that."""
        self._stop.set()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)


_mine: tuple[Work, Pool] | None = None


def _begin(work: Work, stopped: Callable[[], bool], parent: int) -> None:
    """In a new worker: it ends when the parent says so, not when a terminal does, and never outlives the parent."""
    global _mine
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for told in (signal.SIGTERM, signal.SIGHUP):
        if callable(signal.getsignal(told)):  # what the parent does then is not for a worker to do
            signal.signal(told, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died in between
        os._exit(1)
    _mine = work, Pool(1, stopped)


def _do(name: str) -> Any:
    assert _mine is not None
    work, pool = _mine
    return work(name, pool)
