"""Items on disk, one JSON line each, appended and flushed: what a killed run had finished is there for the next one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import OutputError, SourceError, bad, show

Row = dict[str, Any]
LOCK = ".lock"


class Store:
    """A file of rows, each with an `id`; the last row of an id counts.

    A last line that was half written is cut off when the file is opened for more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        self._whole = 0
        if path.exists():
            self._read()

    def _read(self) -> None:
        data = self.path.read_bytes()
        for number, line in enumerate(data.split(b"\n")[:-1], 1):
            try:
                row = json.loads(line)
                self.rows[row["id"]] = row
            except (ValueError, KeyError, TypeError):
                raise SourceError(
                    f"{self.path}, line {number}: broken, and not the last one, which a killed run may leave: "
                    f"{show(line[:80].decode(errors='replace'))}; delete that line, and its item is done again"
                ) from None
        self._whole = data.rfind(b"\n") + 1

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows, and flush them to the disk.

        Raises:
            OutputError: they cannot be written.
        """
        listed = [dict(row) for row in rows]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed).encode("utf-8", "surrogatepass")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "r+b" if self.path.exists() else "xb") as file:
                file.truncate(self._whole)
                file.seek(self._whole)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        self._whole += len(text)
        self.rows.update({row["id"]: row for row in listed})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; a run that was killed holds no lock any more.

    Raises:
        RequestError: another run is writing to it.
        OutputError: it cannot be written to.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise bad(
            "out", str(folder), "a folder that no other run is writing to", "wait for that one, or give another folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise OutputError(f"{folder}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    try:
        yield
    finally:
        lock.release()


def write_aside(path: Path, text: str) -> None:
    """Write a file beside its place, then rename it into it.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(aside, 0o644)
            os.replace(aside, path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


def folder_name(name: str) -> str:
    """A model's or data set's name, if it may be the name of a file.

    >>> folder_name("merged-1.5")
    'merged-1.5'
    """
    plain = name.replace("-", "a").replace("_", "a").replace(".", "a")
    if not plain.isalnum() or name.startswith(".") or len(name) > 80:
        raise bad("name", name, "letters, digits, - _ and . (it names a folder of results)")
    return name
