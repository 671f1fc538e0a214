"""One program, one process: started, fed, judged and swept away by the supervisor, who alone knows the answers."""

from __future__ import annotations

import contextlib
import functools
import json
import marshal
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes
from types import CodeType

from . import walls
from .examination import Examination
from .values import matches

_START = 60.0  # seconds in which a process must stand behind its walls; a busy machine is no fault of the program
_FRAME = 4 << 20  # bytes of one answer
_TOTAL = 64 << 20  # bytes of all answers of a program

# Reads two frames, and runs the harness with builtins of its own.
_BOOT = """
import os, marshal, builtins
def take():
    data, size = b"", 4
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more: os._exit(1)
        data += more
        if size == 4 and len(data) == 4: data, size = b"", int.from_bytes(data, "little")
    return marshal.loads(data)
confine, harness, plan = take()
rooms = [{"__name__": name, "__builtins__": dict(vars(builtins))} for name in ("confine", "harness")]
exec(confine, rooms[0]); exec(harness, rooms[1])
rooms[1]["main"](rooms[0]["confine"], plan)
"""


@dataclass(frozen=True)
class Outcome:
    """What came of one program.

    `outcome` is `passed`, `failed`, `timeout`, `out_of_memory` or `sandbox_error`; the last one says that the sandbox
    did not do its work, and nothing about the program.
    """

    outcome: str
    detail: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the tests ran to their end, and every answer was right."""
        return self.outcome == "passed"


class _Verdict(Exception):  # noqa: N818 - no error
    """The verdict is known."""

    def __init__(self, outcome: str, detail: str = "") -> None:
        self.outcome, self.detail = outcome, detail


def run_one(candidate: str, exam: Examination, kind: str, limits: walls.Limits) -> Outcome:
    """Run one candidate against one examination behind walls of `kind`; leaves neither process nor file."""
    scratch = tempfile.mkdtemp(prefix="hf_merge3h-")
    try:
        return _Run(candidate, exam, kind, limits, scratch).outcome()
    except OSError as error:
        return Outcome("sandbox_error", str(error), 0.0)
    finally:
        _sweep(scratch)


class _Run:
    def __init__(self, candidate: str, exam: Examination, kind: str, limits: walls.Limits, scratch: str) -> None:
        self.exam, self.limits = exam, limits
        self.token = token_bytes(16)
        self.seen: set[int] = set()
        self.candidate = candidate.encode("utf-8", "surrogatepass")
        self.outgoing = _frame(marshal.dumps((*_inside(), walls.plan(kind, limits, scratch))))
        self.incoming = b""
        self.received = 0
        self.asked = False  # whether the tests were sent
        self.started: float | None = None
        self.process = subprocess.Popen(
            walls.command(kind, _BOOT), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={}, cwd=scratch, start_new_session=True,
        )  # fmt: skip

    def outcome(self) -> Outcome:
        deadline = time.monotonic() + _START
        try:
            self._converse(deadline)
        except _Verdict as verdict:
            seconds = time.monotonic() - self.started if self.started is not None else 0.0
            return Outcome(verdict.outcome, verdict.detail, seconds)
        finally:
            self._end()
        raise AssertionError("a conversation ends with a verdict")

    def _converse(self, deadline: float) -> None:
        stdin, stdout = self._ends()
        while True:
            if self.started is not None:
                deadline = self.started + self.limits.clock
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._late()
            writers = [stdin] if self.outgoing else []
            ready, writable = _poll(stdout, writers, left)
            if writable:
                self._write(stdin)
            if ready:
                self._read(stdout)

    def _late(self) -> _Verdict:
        if self.started is None:
            return _Verdict("sandbox_error", f"the process did not start within {_START:g} s")
        return _Verdict("timeout", f"not done after {self.limits.clock:g} s on the clock")

    def _ends(self) -> tuple[int, int]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        ends = self.process.stdin.fileno(), self.process.stdout.fileno()
        for end in ends:
            os.set_blocking(end, False)
        return ends

    def _write(self, stdin: int) -> None:
        try:
            self.outgoing = self.outgoing[os.write(stdin, self.outgoing) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.outgoing = b""

    def _read(self, stdout: int) -> None:
        data = os.read(stdout, 1 << 16)
        if not data:
            raise self._ended()
        self.incoming += data
        self.received += len(data)
        start = 0
        while len(self.incoming) >= start + 4:
            size = int.from_bytes(self.incoming[start : start + 4], "little")
            if size > _FRAME or self.received > _TOTAL:
                raise _Verdict("failed", "its answers are larger than any test expects")
            if len(self.incoming) < start + 4 + size:
                break
            frame = self.incoming[start + 4 : start + 4 + size]
            start += 4 + size
            self._hear(frame[:1], frame[1:])
        self.incoming = self.incoming[start:]

    def _hear(self, kind: bytes, body: bytes) -> None:
        text = body.decode("utf-8", "replace")[:500]
        if self.started is None:
            if kind != b"S":
                raise _Verdict("sandbox_error", text)
            self.started = time.monotonic()
            self.outgoing += _frame(self.candidate)
        elif kind == b"R" and not self.asked:
            self.asked = True
            self.outgoing += _frame(self.exam.payload) + _frame(self.token)
        elif kind == b"V":
            self._judge(body)
        elif kind == b"E":
            raise _Verdict("failed", text)
        elif kind == b"M":
            raise _Verdict("out_of_memory", f"more than {self.limits.memory >> 20} MiB")
        elif kind == b"T":
            self._finish(body)
        else:
            raise _Verdict("failed", "it spoke in the place of the harness")

    def _judge(self, body: bytes) -> None:
        number = int.from_bytes(body[:4], "little")
        if number >= len(self.exam.expected):
            raise _Verdict("failed", "an answer to a question that was not asked")
        try:
            sent = json.loads(body[4:])
        except (ValueError, RecursionError):
            raise _Verdict("failed", "an answer that is no value") from None
        holds = matches(sent, self.exam.expected[number]) if self.exam.holds_literal(number) else sent is True
        if not holds:
            raise _Verdict("failed", f"assertion failed: {self.exam.sources[number]}")
        self.seen.add(number)

    def _finish(self, token: bytes) -> None:
        left_out = sorted(self.exam.required - self.seen)
        if token != self.token:
            raise _Verdict("failed", "the end of the tests was announced by something else")
        if left_out:
            raise _Verdict("failed", f"assertion never made: {self.exam.sources[left_out[0]]}")
        raise _Verdict("passed")

    def _ended(self) -> _Verdict:
        """The process closed its end without a verdict."""
        try:
            status = self.process.wait(5)
        except subprocess.TimeoutExpired:
            status = None  # it closed its end, and goes on
        if self.started is None:
            assert self.process.stderr is not None
            os.set_blocking(self.process.stderr.fileno(), False)
            said = (self.process.stderr.read() or b"").decode("utf-8", "replace").strip()
            return _Verdict("sandbox_error", said[-500:] or f"the process ended before it began (status {status})")
        killed = status in (
            -signal.SIGKILL,
            128 + signal.SIGKILL,
        )  # the kernel's, if it ignored the signal or ate memory
        late = killed and time.monotonic() - self.started >= self.limits.timeout
        if late or status in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
            return _Verdict("timeout", f"not done after {self.limits.timeout:g} s of processor time")
        if killed:
            return _Verdict("out_of_memory", "killed by the kernel")
        return _Verdict("failed", f"ended before its tests did (status {status})")

    def _end(self) -> None:
        """Kill the process group, and wait until nobody holds its end of the pipe."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        end, deadline = self.process.stdout.fileno(), time.monotonic() + 5
        while (left := deadline - time.monotonic()) > 0:
            if _poll(end, [], left)[0] and not os.read(end, 1 << 16):
                break
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _poll(reader: int, writers: list[int], left: float) -> tuple[bool, bool]:
    """Whether the reader has something (or has ended), and whether a writer takes something (or has gone)."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    for writer in writers:
        poll.register(writer, select.POLLOUT)
    ready = [file for file, _ in poll.poll(left * 1000)]
    return reader in ready, any(file in ready for file in writers)


def _frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


@functools.cache
def _inside() -> tuple[CodeType, CodeType]:
    """The code of the walls and of the harness, as it is sent: a sandbox sees no folder of this package."""
    here = Path(__file__).parent / "inside"
    confine, harness = (compile((here / f"{name}.py").read_text(), name, "exec") for name in ("confine", "harness"))
    return confine, harness


def _sweep(scratch: str) -> None:
    """Remove a working folder, however deep and closed a program has left it."""
    try:
        shutil.rmtree(scratch)
    except (OSError, RecursionError):
        subprocess.run(["chmod", "-R", "u+rwX", scratch], capture_output=True)
        subprocess.run(["rm", "-rf", scratch], capture_output=True)
