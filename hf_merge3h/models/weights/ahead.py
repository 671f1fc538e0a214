"""Read-ahead: a thread that asks for the next bytes while the last ones are merged, and hashes files on the way."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from ...errors import SourceError

_AHEAD = 1 << 28  # bytes that the reader may be ahead of the merge: page cache, not memory of the process
_PIECE = 1 << 20

#: A file, and the bytes of it that will be needed.
Span = tuple[Path, int, int]


class ReadAhead:
    """Brings the spans of coming steps into the page cache, in order, at most 256 MiB ahead.

    Which bytes arrive when changes nothing in the result: tensors are read through memory maps all the same.

    Args:
        steps: the spans of each step, in the order of the work.
        hashed: files whose BLAKE3 is wanted (all their bytes are then read once, in order).
    """

    def __init__(self, steps: Sequence[Sequence[Span]], hashed: Iterable[Path] = ()) -> None:
        self._steps = steps
        self._hashers: dict[Path, FileHash] = {path: FileHash(path) for path in hashed}
        self._done, self._stopped = 0, False
        self._moved = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="read-ahead", daemon=True)
        self._thread.start()

    def advance(self, steps: int) -> None:
        """Tell that this many steps are done."""
        with self._moved:
            self._done = steps
            self._moved.notify()

    def hashes(self) -> dict[Path, str]:
        """Wait for the hashes of all files."""
        self.advance(len(self._steps))
        self._thread.join()
        if self._error is not None:
            raise SourceError(f"an input cannot be read: {self._error}") from None
        return {path: hasher.finish() for path, hasher in self._hashers.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the thread, whatever it still had to hash."""
        for hasher in self._hashers.values():
            hasher.stopped = True
        with self._moved:
            self._stopped = True
            self._moved.notify()
        self._thread.join()

    def _work(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                files: dict[Path, int] = {}
                sizes = [sum(end - start for _, start, end in spans) for spans in self._steps]
                for number, spans in enumerate(self._steps):
                    with self._moved:
                        while not self._stopped and sum(sizes[self._done : number]) > _AHEAD:
                            self._moved.wait()
                        if self._stopped:
                            return
                    for path, start, end in spans:
                        if path in self._hashers:
                            self._hashers[path].reach(end)
                            continue
                        if path not in files:
                            files[path] = os.open(path, os.O_RDONLY)
                            stack.callback(os.close, files[path])
                        if hasattr(os, "posix_fadvise"):
                            os.posix_fadvise(files[path], start, end - start, os.POSIX_FADV_WILLNEED)
                for hasher in self._hashers.values():
                    hasher.reach(hasher.size)
        except (OSError, ValueError) as error:
            self._error = error


class FileHash:
    """The BLAKE3 of a file as far as it has been read.

    Attributes:
        stopped: set by another thread, which does not want the rest any more.
    """

    def __init__(self, path: Path) -> None:
        from blake3 import blake3

        self.size = path.stat().st_size
        self._path, self._hash, self._reached = path, blake3(), 0
        self.stopped = False

    def reach(self, end: int) -> None:
        """Hash everything up to this byte.

        Raises:
            OSError: the file cannot be read, or has become shorter.
        """
        left = end - self._reached
        if left <= 0:
            return
        # Read into one buffer that stays in the cache, not mapped: a page that is mapped costs more than its copy.
        with self._path.open("rb", buffering=0) as file, memoryview(bytearray(min(left, _PIECE))) as buffer:
            file.seek(self._reached)
            while left and not self.stopped:
                count = file.readinto(buffer[: min(left, _PIECE)])
                if not count:
                    raise OSError(f"{self._path} has become shorter: it ends at byte {self._reached} of {self.size}")
                self._hash.update(buffer[:count])
                self._reached += count
                left -= count

    def finish(self) -> str:
        """The hash; `reach` must have come to the end."""
        return self._hash.hexdigest()
