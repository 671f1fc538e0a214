"""The steps of a merge in several processes: the same bits, the same errors, and nothing left of any of them.

Only a process without further threads forks, so these run in programs of their own.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_merge3h.engine import workers
from tests.engine.recipes import family

START = """
import os, signal, sys, time
from pathlib import Path
from hf_merge3h.engine import stream, walk, workers
from hf_merge3h.engine.steps import make_stream_plan
from hf_merge3h.errors import MergeError
from hf_merge3h.linalg import blocks
from tests.engine.recipes import recipe
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
workers._WORTH_A_PROCESS, workers._cores, blocks.BLOCK, walk.PIECE = 0, lambda: 3, 100, 300
def merge(method, out=out, **options):
    return stream.merge_plan(make_stream_plan(recipe(folder, method, **options), device="cpu"), out, overwrite=True)
def children():
    return [int(each) for each in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="forks are for Linux alone: macOS libraries break in them"
)


@pytest.fixture(scope="module")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    family(folder)
    return folder


def program(code: str, folder: Path, out: Path) -> str:
    command = [sys.executable, "-c", START + code, str(folder), str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert children_of(ran) == []
    return ran.stdout


def children_of(ran: Any) -> list[str]:
    """Processes that outlived a program: those whose command line names its folder."""
    own = ran.args[-1].encode()
    lines = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _reads(path, own)]
    return [path.parent.name for path in lines]


def _reads(path: Path, wanted: bytes) -> bool:
    try:
        return wanted in path.read_bytes()
    except OSError:
        return False


SAME = """
made = []
forked = workers._Processes.begin
def begin(self, *arguments):
    made.append(self._count)
    forked(self, *arguments)
    assert len(children()) == 3
workers._Processes.begin = begin
for method in ("linear", "ties", "dare_ties", "sce", "model_stock"):
    found = [merge(method, out / method)]
    workers._WORTH_A_PROCESS = 1 << 40
    found.append(merge(method, out / f"{method}-threads"))
    workers._WORTH_A_PROCESS = 0
    facts = [{name: each.content[name] for name in ("diagnostics", "models")} for each in found]
    assert facts[0] == facts[1], method
    assert found[0].outputs == found[1].outputs, method
    assert not children()
print(made)
"""


def test_processes_give_the_bits_of_threads(tiny_family: Path, tmp_path: Path) -> None:
    assert program(SAME, tiny_family, tmp_path) == "[3, 3, 3, 3, 3]\n"


def test_a_method_that_needs_whole_tensors_keeps_all_cores(tiny_family: Path, tmp_path: Path) -> None:
    assert program("workers._Processes.begin = None\nmerge('tsv_merge')\n", tiny_family, tmp_path / "out") == ""
    assert (tmp_path / "out" / "merge3h.json").exists()


KILLED = """
done = stream.StreamRun._step
def step(self, *arguments):
    time.sleep(0.2)
    if children() == []:  # in a worker
        os.kill(os.getpid(), signal.SIGKILL)
    return done(self, *arguments)
stream.StreamRun._step = step
try:
    merge("ties")
except MergeError as error:
    print(error)
assert not out.exists() and not children()
"""


def test_a_worker_that_is_killed_is_one_error(tiny_family: Path, tmp_path: Path) -> None:
    assert "ended from outside" in program(KILLED, tiny_family, tmp_path / "out")
    assert not list(tmp_path.iterdir())


BROKEN = """
import torch
from safetensors.torch import load_file, save_file
from tests.engine.recipes import recipe
file = next((folder / "e2").glob("*.safetensors"))
tensors = load_file(file)
name = sorted(tensors)[3]
tensors[name].view(-1)[5] = float("inf")
save_file(tensors, file, {"format": "pt"})
try:
    merge("ties")
except MergeError as error:
    print(type(error).__name__, error)
assert not out.exists() and not children()
"""


def test_an_error_in_a_worker_is_the_error(tmp_path: Path) -> None:
    family(tmp_path / "models")
    told = program(BROKEN, tmp_path / "models", tmp_path / "out")
    assert told.startswith("RequestError ")
    assert "not finite" in told


INTERRUPTED = """
done = stream.StreamRun._step
def step(self, *arguments):
    time.sleep(0.05)
    return done(self, *arguments)
stream.StreamRun._step = step
def later(*_): raise KeyboardInterrupt
signal.signal(signal.SIGALRM, later)
signal.setitimer(signal.ITIMER_REAL, 0.3)
started = time.monotonic()
try:
    merge("ties")
except KeyboardInterrupt:
    print("interrupted")
assert not out.exists() and not children()
"""


def test_an_interrupt_leaves_nothing(tiny_family: Path, tmp_path: Path) -> None:
    assert program(INTERRUPTED, tiny_family, tmp_path / "out") == "interrupted\n"
    assert not list(tmp_path.iterdir())


TWENTY = """
import random
chance, before = random.Random(0), merge("linear").outputs
done = stream.StreamRun._step
def step(self, *arguments):
    time.sleep(0.01)
    return done(self, *arguments)
stream.StreamRun._step = step
for number in range(20):
    if number == 10:
        workers._WORTH_A_PROCESS = 1 << 40  # from here on with threads
    child = os.fork()
    if not child:
        merge("task_arithmetic")
        os._exit(0)
    time.sleep(0.6 * chance.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (out / "merge3h.json").exists() and (out / "model.safetensors").exists()
workers._WORTH_A_PROCESS = 0
assert merge("linear").outputs == before
print(sorted(path.name for path in out.parent.iterdir()))
"""


def test_twenty_kills_leave_nothing_or_all(tiny_family: Path, tmp_path: Path) -> None:
    assert program(TWENTY, tiny_family, tmp_path / "out") == "['out']\n"


def test_no_fork_beside_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [threading.current_thread()]
    monkeypatch.setattr(threading, "enumerate", lambda: alone)
    monkeypatch.setattr(threading, "main_thread", threading.current_thread)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert workers._may_fork()
    other = threading.Thread(target=print)
    alone.append(other)
    assert not workers._may_fork()
    alone.pop()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert not workers._may_fork()
