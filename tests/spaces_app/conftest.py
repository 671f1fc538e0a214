"""The Space's folder is no package: `python app.py` is run in it, and so its modules are found by their plain names."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

SPACE = Path(__file__).resolve().parents[2] / "spaces_app"
sys.path.insert(0, str(SPACE))
os.environ.setdefault("GRADIO_TEMP_DIR", tempfile.mkdtemp(prefix="merge3h-space-test-"))
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.pop("GRADIO_SERVER_PORT", None)
pytest.register_assert_rewrite("tests.spaces_app.as_programs")


@pytest.fixture
def visit() -> Iterator[object]:
    """A visit that ends with the test."""
    import actions

    yield actions.VISITS.of("test")
    actions.VISITS.close("test")


@pytest.fixture(scope="session")
def demo_merge(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The demo's merge, made once; test files work on copies of it."""
    import actions
    from visits import Visits

    from .common import DEMO, Silent

    visit = Visits(tmp_path_factory.mktemp("visits")).of("made")
    return actions.merge(visit, DEMO, Silent(visit.stop))


@pytest.fixture(scope="module")
def made(demo_merge: Any, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The demo's merge, in a folder of one file's tests."""
    folder = tmp_path_factory.mktemp("made") / "model"
    shutil.copytree(demo_merge.folder, folder)
    return replace(demo_merge, folder=folder)


@pytest.fixture
def teller(visit: Any) -> object:
    """Hears how far the visit's work is."""
    from .common import Silent

    Silent.shares.clear()
    return Silent(visit.stop)


@pytest.fixture
def offline() -> Iterator[None]:
    """There is no Hub."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    yield
    constants.HF_HUB_OFFLINE = before


@dataclass(frozen=True)
class Site:
    """The page, served by a process of its own.

    Attributes:
        url: its address.
        visits: the folder of its visits.
        process: id of the process.
        started: seconds that it took to answer.
    """

    url: str
    visits: Path
    process: int
    started: float

    @property
    def peak_memory(self) -> int:
        """Bytes that it had in memory at most."""
        status = Path(f"/proc/{self.process}/status").read_text()
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page as `python app.py` serves it, without a Hub."""
    place = tmp_path_factory.mktemp("site")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(place), "HF_HUB_OFFLINE": "1"}
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=SPACE, env={**os.environ, **told}, stdout=log, stderr=log
        )
        try:
            yield _wait(process, f"http://127.0.0.1:{port}", place)
        finally:
            process.terminate()
            process.wait(30)
    assert "Traceback" not in (place / "log").read_text(), (place / "log").read_text()[-3000:]


def _wait(process: subprocess.Popen, url: str, place: Path) -> Site:
    start = time.perf_counter()
    while time.perf_counter() - start < 300:  # seconds; for machines that do other things too
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=30).status_code == 200:
                return Site(url, place / "visits", process.pid, time.perf_counter() - start)
        assert process.poll() is None, (place / "log").read_text()
        time.sleep(0.2)
    raise AssertionError("the page does not come up")
