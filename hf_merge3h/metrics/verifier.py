"""Asks the math worker, and starts another one where a question takes too long."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import queue
import subprocess
import sys
import threading
from typing import Any

from ..errors import MergeError, RequestError

_START = 120.0  # seconds in which the worker must be ready: importing sympy from a cold disk takes some


class Verifier:
    """One worker process, started when first asked; threads take turns."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def compare(self, gold: str, answer: str, timeout: float) -> dict[str, Any]:
        """`parsed`, `correct`, and `error` where neither could be found out.

        Raises:
            MergeError: the worker cannot be started.
        """
        with self._turn:
            process = self._ready()
            assert process.stdin is not None  # it was opened with a pipe
            try:
                process.stdin.write(json.dumps([gold, answer]) + "\n")
                process.stdin.flush()
                line = self._lines.get(timeout=timeout)
            except queue.Empty:
                self.close()
                return {"parsed": False, "correct": False, "error": "timeout"}
            except OSError:
                line = ""
            if not line:  # it died: of memory, most likely
                self.close()
                return {"parsed": False, "correct": False, "error": "died"}
            return dict(json.loads(line))

    def close(self) -> None:
        """End the worker; the next question starts another one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _ready(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        if importlib.util.find_spec("math_verify") is None:
            raise RequestError('math_accuracy needs math-verify; pip install "hf-merge3h[eval]"')
        process = subprocess.Popen(
            [sys.executable, "-m", "hf_merge3h.metrics.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
            env=_environment(),
        )  # fmt: skip
        self._process, self._lines = process, queue.Queue()
        threading.Thread(target=_pump, args=(process, self._lines), daemon=True).start()
        try:
            started = self._lines.get(timeout=_START)
        except queue.Empty:
            started = ""
        if started != "ready\n":
            self.close()
            raise MergeError("math_accuracy: the process that runs math-verify did not start; try `import math_verify`")
        return process


def _environment() -> dict[str, str]:
    """This process' own, with its import path: a package that is not installed is found by the worker too."""
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}


def _pump(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed from the other side
        for line in process.stdout or ():
            lines.put(line)
    lines.put("")


_shared = Verifier()


def compare(gold: str, answer: str, timeout: float) -> dict[str, Any]:
    """Ask the worker that this process shares."""
    return _shared.compare(gold, answer, timeout)
