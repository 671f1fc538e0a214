"""Run programs that nobody has read: the one door to the sandbox."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from shutil import which

from hf_merge3h.errors import RequestError, bad, nearest

from . import walls
from .examination import Examination, examination
from .supervisor import Outcome, run_one

Program = str | tuple[str, str]  # a whole program, or (candidate, tests)

_MEMORY = 2 << 30
_CHOICES = ("auto", *walls.KINDS, "none")


def run_programs(
    programs: Sequence[Program],
    *,
    timeout: float = 10.0,
    memory: int = _MEMORY,
    workers: int | None = None,
    sandbox: str = "auto",
) -> list[Outcome]:
    """Run untrusted Python programs, each in a process of its own behind walls; outcomes in the order of `programs`.

    Args:
        programs: pairs `(candidate, tests)`, or whole programs, which pass where they run to their end. Of a pair, the
            tests enter the process only when the candidate has run, and what their assertions expect never does.
        timeout: seconds of processor time that one program may take (counted in whole ones); on the clock, three times
            as many, so that a busy machine fails no program.
        memory: bytes of address space one program may take.
        workers: programs at a time; None: as many as there are cores.
        sandbox: `auto` takes the first of `bubblewrap`, `landlock`, `namespaces` that this machine has; `none` isolates
            nothing, and is refused unless the environment says `HF_ALLOW_CODE_EVAL=1`.

    Returns:
        An `Outcome` a program: `passed`, `failed`, `timeout`, `out_of_memory`, or `sandbox_error`, which says nothing
        about the program.

    Raises:
        RequestError: an argument is wrong, tests are no Python, or nothing isolates here.

    Example:
        >>> [one.outcome for one in run_programs([("def f(x): return x * x", "assert f(3) == 9")])]
        ['passed']
    """
    pairs = [_pair(program, place) for place, program in enumerate(programs)]
    limits = _limits(timeout, memory)
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
        raise bad("workers", workers, "a whole number, 1 or more", "leave it out for one a core")
    kind = choose(sandbox)
    exams: dict[str, Examination] = {}
    for place, (_, tests) in enumerate(pairs):
        if tests not in exams:
            exams[tests] = examination(tests, f"programs[{place}][1]")
    with ThreadPoolExecutor(workers or _cores()) as pool:
        runs = [pool.submit(run_one, candidate, exams[tests], kind, limits) for candidate, tests in pairs]
        try:
            return [run.result() for run in runs]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _pair(program: Program, place: int) -> tuple[str, str]:
    if isinstance(program, str):
        return program, ""
    if isinstance(program, tuple) and len(program) == 2 and all(isinstance(part, str) for part in program):
        return program
    raise bad(f"programs[{place}]", program, "a program as text, or a pair of texts (candidate, tests)")


def _limits(timeout: float, memory: int) -> walls.Limits:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < 86_400:
        raise bad("timeout", timeout, "seconds, more than 0 and less than a day")
    if isinstance(memory, bool) or not isinstance(memory, int) or memory < 64 << 20:
        raise bad("memory", memory, "bytes, at least 64 MiB (67108864): the interpreter needs as much itself")
    return walls.Limits(timeout, memory)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose(sandbox: str = "auto") -> str:
    """The kind of isolation that a request for `sandbox` gets here.

    Raises:
        RequestError: no such kind, not on this machine (with the reason), or `none` without consent.
    """
    if sandbox not in _CHOICES:
        raise bad("sandbox", sandbox, "one of " + ", ".join(_CHOICES), nearest(str(sandbox), _CHOICES))
    if sandbox == "none":
        if os.environ.get(walls.CONSENT) != "1":
            consent = f"set {walls.CONSENT}=1 to run code of a model with all your rights, or use sandbox='auto'"
            raise bad("sandbox", sandbox, "isolation", consent)
        return sandbox
    wanted = walls.KINDS if sandbox == "auto" else (sandbox,)
    reasons = []
    for kind in wanted:
        reason = _reason(kind)
        if not reason:
            return kind
        reasons.append(f"{kind}: {reason}")
    raise RequestError(
        f"sandbox={sandbox!r}: nothing isolates untrusted code here ({'; '.join(reasons)}); install bubblewrap, or "
        f"use a kernel with landlock or user namespaces (or set {walls.CONSENT}=1 and sandbox='none', at your own risk)"
    )


def available() -> dict[str, str]:
    """Each kind of isolation, and why this machine does not have it ("" where it does)."""
    return {kind: _reason(kind) for kind in walls.KINDS}


def describe() -> str:
    """One line for a report: what isolates here, and why other kinds do not."""
    found = available()
    chosen = next((kind for kind, reason in found.items() if not reason), "nothing")
    others = [f"{kind}: {reason}" for kind, reason in found.items() if reason]
    return f"isolated by {chosen}" + (f" ({'; '.join(others)})" if others else "")


def _reason(kind: str) -> str:
    return walls.missing(kind) or _tried(kind, which("bwrap") if kind == "bubblewrap" else None)


@cache
def _tried(kind: str, program: str | None) -> str:
    """Why a harmless program does not run behind this wall; "" where it does."""
    result = run_one("def one(): return 1", examination("assert one() == 1"), kind, walls.Limits(30.0, _MEMORY))
    return "" if result.passed else result.detail or result.outcome
