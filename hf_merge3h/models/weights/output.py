"""A folder that appears whole or not at all: written aside, on the same file system, and renamed at the end."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from ...errors import MergeError, OutputError, bad, wrong

try:
    import fcntl
except ImportError:  # Windows: no locks, and so nothing of another run is ever taken for abandoned
    fcntl = None  # type: ignore[assignment]

_LOCK = ".lock"
#: What a folder that may be replaced holds: a model, or an earlier output.
_MODEL_FILES = ("merge3h.json", "config.json", "model.safetensors", "model.safetensors.index.json")
_REPLACE = ("overwrite", True)
_MORE_SPACE = "free some space there, or give another folder"
_REMEDIES = {
    errno.ENOSPC: _MORE_SPACE,
    errno.EDQUOT: _MORE_SPACE,
    errno.EFBIG: "write smaller files (max_shard_size), or give another folder",  # FAT takes none of 4 GiB
}


class OutputFolder:
    """Gives a new folder to write into, and puts it in the target's place when all went well.

    A killed run leaves at most a hidden folder beside the target. The kernel drops its lock with the process, which
    is how the next run tells it from one that is still being written, and removes it.

    Args:
        target: the folder that is to appear.
        overwrite: replace what is there, which is kept until the new one is whole.

    Raises:
        RequestError: the target exists, or nothing can be written there.

    Example:
        >>> import tempfile
        >>> with OutputFolder(Path(tempfile.mkdtemp()) / "merged") as folder:
        ...     _ = (folder / "config.json").write_text("{}")
    """

    def __init__(self, target: Path, *, overwrite: bool = False) -> None:
        self.target = Path(os.path.abspath(Path(target).expanduser()))
        with contextlib.suppress(OSError):  # `check` tells
            if self.target.is_symlink():
                self.target = self.target.resolve()
        self.overwrite = overwrite
        self._lock: int | None = None
        self.folder: Path | None = None

    @property
    def place(self) -> Path:
        """The nearest folder above the target that exists."""
        return next(each for each in self.target.parents if each.exists())

    def check(self) -> None:
        """Raise a RequestError where the target cannot be written; changes nothing."""
        target = self.target
        try:
            names = _names(target)
            writable = self.place.is_dir() and os.access(self.place, os.W_OK | os.X_OK)
        except (OSError, ValueError) as problem:  # a name that is too long, a folder that may not be looked into
            reason = problem.strerror if isinstance(problem, OSError) else str(problem)
            raise bad("out", str(target), f"a place to write in: {reason}", "give another folder") from None
        if names is None:
            raise bad("out", str(target), "a folder, and this is a file")
        if names and not self.overwrite:
            raise bad("out", str(target), "a folder that does not exist", "give another one", instead=_REPLACE)
        if names and not any(name in names for name in _MODEL_FILES):
            raise bad(
                "out", str(target), "a folder that holds a model, where it is to be overwritten", "give another one"
            )
        if not writable:
            raise bad("out", str(target), f"a place to write in; {self.place} cannot be written to")

    def spare(self, inputs: Iterable[tuple[str, Path]]) -> None:
        """Raise a RequestError where replacing the target would destroy what is read.

        Args:
            inputs: what is read, as the user called it, and the folder that it lies in.
        """
        target = self.target.resolve()
        for label, folder in inputs:
            if target in (folder.resolve(), *folder.resolve().parents):
                raise wrong("out", str(self.target), f"is or holds the input {label}; give another folder")

    def check_space(self, needed: int) -> None:
        """Raise a RequestError where the file system has less than `needed` bytes left."""
        free = shutil.disk_usage(self.place).free
        if free < needed:
            expected = f"{needed:,} bytes of free space, and {free:,} are left at {self.place}"
            raise bad("out", str(self.target), expected, _MORE_SPACE)

    def __enter__(self) -> Path:
        self.check()
        parent = self.target.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with _alone(parent):
                self._recover()
                self.check()
                self.folder = parent / f"{self._prefix}new-{secrets.token_hex(4)}"
                self.folder.mkdir()
                self._lock = _locked(self.folder / _LOCK)
        except OSError as problem:
            raise self._error(problem) from None
        return self.folder

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self.folder is not None
        try:
            if kind is None:
                with _alone(self.target.parent):
                    old = self._commit(self.folder)
                if old is not None:
                    shutil.rmtree(old, ignore_errors=True)
            elif isinstance(value, OSError) and not isinstance(value, MergeError):
                raise self._error(value) from None
        except MergeError:
            raise
        except OSError as problem:
            raise self._error(problem) from None
        finally:
            if self._lock is not None:
                os.close(self._lock)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _error(self, problem: OSError) -> OutputError:
        remedy = _REMEDIES.get(problem.errno or 0, "give another folder")
        return OutputError(f"out={str(self.target)!r}: cannot be written: {problem.strerror or problem}; {remedy}")

    @property
    def _prefix(self) -> str:
        return f".{self.target.name}.merge3h-"

    def _commit(self, folder: Path) -> Path | None:
        """Two renames where something is replaced; `_recover` mends what a kill between them leaves.

        Returns:
            What was replaced, under a name that says that nobody needs it any more.
        """
        self.check()  # another run may have been faster
        (folder / _LOCK).unlink()
        if not _names(self.target):
            folder.rename(self.target)
            return None
        old = self.target.parent / f"{self._prefix}old-{secrets.token_hex(4)}"
        self.target.rename(old)
        try:
            folder.rename(self.target)
        except OSError:
            old.rename(self.target)
            raise
        return old.rename(self.target.parent / f"{self._prefix}new-{secrets.token_hex(4)}")

    def _recover(self) -> None:
        """Clean up after runs that were killed: put back what was moved away last, remove what was half written."""
        for left in sorted(self.target.parent.glob(f"{self._glob}old-*")):
            if not self.target.exists():
                left.rename(self.target)
            else:
                shutil.rmtree(left, ignore_errors=True)
        for left in self.target.parent.glob(f"{self._glob}new-*"):
            if _abandoned(left / _LOCK):
                shutil.rmtree(left, ignore_errors=True)

    @property
    def _glob(self) -> str:
        return "".join(f"[{each}]" if each in "*?[" else each for each in self._prefix)


@contextlib.contextmanager
def _alone(parent: Path) -> Iterator[None]:
    """No two runs make, take away or exchange folders in the same place at once; where it can't be locked, hope."""
    handle = None
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # some network file systems lock no folders
                handle = os.open(parent, os.O_RDONLY)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)  # closing would not do where a process was forked meanwhile
            os.close(handle)


def _names(folder: Path) -> list[str] | None:
    """What a folder holds; nothing where there is none, and None for what is no folder."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        return None if folder.exists() else []


def _locked(path: Path) -> int:
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def _abandoned(path: Path) -> bool:
    """Whether no process holds this lock (a run that has no lock yet, or none any more, counts as abandoned)."""
    if fcntl is None:
        return False
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return True
    with contextlib.closing(os.fdopen(handle)):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
