"""A process that runs one command: what Python does for long-lived programs is left out at its begin and its end.

To import torch makes 400,000 objects that stay. Looking through them for garbage again and again takes a fifth of the
import, and taking them apart at the end as long as a third of it (0.5 and 0.8 s of processor time).
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

_YOUNG = 10_000  # new objects after which Python looks for garbage among them (its own: 700, in 3.12 and before)


def collect_less() -> None:
    """Look for garbage less often from now on, in the forked workers of a merge, too."""
    gc.set_threshold(_YOUNG, 20, 20)


def unwind_when_told() -> None:
    """TERM and HUP, where nobody has said what they do, end the process as Ctrl-C does: what is half made is removed.

    Schedulers and closing terminals send them. The same one again ends it at once.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows knows no HUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _unwind)


def _unwind(number: int, frame: Any) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)


def quickly(run: Callable[[], None]) -> NoReturn:
    """Run, and end the process with its status: as `sys.exit` does, but the interpreter is not taken apart.

    Whatever wants more than `atexit` and flushed files gets the usual end: other threads, profilers, debuggers, a
    message in place of a status, and files that cannot be flushed; and a Python without `atexit._run_exitfuncs`.

    That function is private, and no public one does its work: a function of our own that `atexit` calls last, and that
    ends the process, has to be registered before all others, and what was registered before this package was imported
    (by `site`, coverage, a script that calls `main`) would be passed over. `os._exit` alone passes over all of it.
    """
    status = 0
    try:
        run()
    except SystemExit as end:
        if not isinstance(end.code, int | None) or not _may_end():
            raise
        status = end.code or 0
    if not _may_end():
        sys.exit(status)
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        sys.exit(status)
    os._exit(status & 0xFF)


def _may_end() -> bool:
    others = [each for each in threading.enumerate() if each is not threading.main_thread()]
    return (
        hasattr(atexit, "_run_exitfuncs")
        and all(type(each).__module__.startswith("tqdm") for each in others)  # its clock, which `atexit` ends
        and sys.getprofile() is None
        and sys.gettrace() is None
        and not sys.flags.inspect
        and not sys.flags.interactive
    )
