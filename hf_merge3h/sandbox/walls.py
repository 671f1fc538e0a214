"""Which isolation this machine has, and how a process is started behind each kind of it."""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from typing import Any

KINDS = ("bubblewrap", "landlock", "namespaces")  # in the order in which "auto" takes them
CONSENT = "HF_ALLOW_CODE_EVAL"
DISK = 64 << 20  # bytes that a program may write into its working folder
_FILE = 16 << 20  # bytes of one file
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_FOLDER = "/box"  # the working folder where a program has a root of its own


@dataclass(frozen=True)
class Limits:
    """What one program may use: seconds of processor time, bytes of address space."""

    timeout: float
    memory: int

    @property
    def clock(self) -> float:
        """Seconds on the clock: more, for a program is not to fail because the machine is busy with others."""
        return 3 * self.timeout


def plan(kind: str, limits: Limits, scratch: str) -> dict[str, Any]:
    """What `inside.confine` does for this kind of isolation; `scratch` is an empty folder of this run."""
    own_root, seconds = kind in ("bubblewrap", "namespaces"), math.ceil(limits.timeout)
    return {
        "limits": {
            "RLIMIT_AS": (limits.memory, limits.memory),
            "RLIMIT_CPU": (seconds, seconds + 1),  # the first by a signal that says why
            "RLIMIT_FSIZE": (_FILE, _FILE),
            "RLIMIT_NOFILE": (64, 64),
            "RLIMIT_CORE": (0, 0),
        },
        "namespaces": kind == "namespaces",
        "landlock": kind == "landlock",
        "seccomp": kind in ("landlock", "namespaces") or (kind == "bubblewrap" and _numbers_known()),
        "read": readable(),
        "list": tuple(package_folders()),
        "devices": tuple(path for path in _DEVICES if os.path.exists(path)),
        "folder": _FOLDER if own_root else scratch,
        "root": scratch,
        "disk": DISK,
        "path": package_folders(),
    }


def command(kind: str, boot: str) -> list[str]:
    """The command that starts an isolated interpreter (`-I`: no environment, no user packages) on the code `boot`."""
    python = [interpreter(), "-I", "-S", "-B", "-X", "utf8", "-c", boot]
    return [*_bubblewrap(), *python] if kind == "bubblewrap" else python


def _bubblewrap() -> list[str]:
    words = [shutil.which("bwrap") or "bwrap"]
    words += ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    for path in readable():
        words += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    for path in _DEVICES:
        words += ["--dev-bind-try", path, path]
    return [*words, "--size", str(DISK), "--tmpfs", _FOLDER, "--remount-ro", "/", "--chdir", _FOLDER, "--"]


@functools.cache
def interpreter() -> str:
    """The interpreter itself: that of a virtual environment is a door to its packages and to its owner's folder."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@functools.cache
def readable() -> tuple[str, ...]:
    """All that a program may read: the interpreter, its standard library, the system's libraries, numpy. No home."""
    own = [interpreter(), os.path.dirname(os.path.realpath(os.__file__))]
    libraries = sysconfig.get_config_var("LIBDIR")
    if libraries and os.path.realpath(libraries).startswith(os.path.realpath(sys.base_prefix)):
        own.append(libraries)
    system = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache", "/usr/share/zoneinfo"]
    found = sorted({path for path in (*system, *own, *_packages()) if os.path.exists(path)}, key=len)
    kept: list[str] = []
    for path in found:  # what lies below a shown folder is shown with it
        if not any(path.startswith(other.rstrip("/") + "/") for other in kept):
            kept.append(path)
    return tuple(kept)


@functools.cache
def _packages() -> tuple[str, ...]:
    """The folders of numpy, which published tests import (MBPP+, HumanEval+)."""
    spec = importlib.util.find_spec("numpy")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return tuple(path for place in places for path in (place, place + ".libs") if os.path.isdir(path))


def package_folders() -> list[str]:
    """Where numpy lies: appended to the program's path; nothing else of that folder can be read."""
    return sorted({os.path.dirname(path) for path in _packages()})


def _numbers_known() -> bool:
    from .inside import confine

    return confine.supported()


def missing(kind: str) -> str:
    """Why this kind cannot even be tried here; "" where it can."""
    if sys.platform != "linux":
        return f"needs Linux, this is {sys.platform}"
    if kind == "bubblewrap":
        return "" if shutil.which("bwrap") else "`bwrap` is not on PATH"
    from .inside import confine

    if not confine.supported():
        return "needs seccomp, and the numbers of system calls are known for x86_64 and aarch64 only"
    if kind == "landlock" and not confine.landlock_abi():
        return "this kernel has no landlock (Linux 5.13 or newer, enabled at boot)"
    return ""
