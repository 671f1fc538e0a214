"""Visits: what one person made while a page is open. Each has a folder of its own that goes when the visit ends.

The folder lies in gradio's cache, under a name that cannot be guessed: only who was given a file's address can fetch
it, and nothing is copied for that.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_MERGES = 4
#: Seconds without any request after which a visit has ended, even if its page never said goodbye.
IDLE = int(os.environ.get("SPACE_VISIT_SECONDS", "3600"))


@dataclass(frozen=True)
class Merge:
    """One merge of a visit.

    Attributes:
        number: counts the visit's merges.
        text, data: the recipe as the visitor gave it.
        roles: of the experts, in the order of the figures.
        tensors: a report for each merged tensor.
        manifest: content of merge3h.json.
        folder: model or adapter, with the recipe and the manifest.
        seconds: how long the merge took.
        spectra: singular values of the changes of a few matrices: matrix -> who -> values.
        notes: what a careful user should know.
    """

    number: int
    text: str
    data: dict[str, Any]
    roles: tuple[str, ...]
    tensors: tuple[Any, ...]
    manifest: dict[str, Any]
    folder: Path
    seconds: float
    spectra: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """How the page calls it."""
        return f"Merge {self.number}: {self.data.get('merge_method', '')}"


@dataclass
class Visit:
    """One visit: its folder and the merges that it keeps, oldest first."""

    folder: Path
    merges: list[Merge] = field(default_factory=list)
    made: int = 0
    seen: float = field(default_factory=time.monotonic)
    closed: bool = False

    @property
    def stop(self) -> Path:
        """A file that asks the running merge to stop: a worker in another process sees it too."""
        return self.folder / "stop"

    def stop_of(self, work: str) -> Path:
        """The same for other work of a visit: a sweep waits beside a merge, an evaluation runs beside it."""
        return self.folder / f"stop-{work}"

    def keep(self, merge: Merge) -> Merge | None:
        """Keep a merge; the oldest one goes where there are more than a visit keeps, and is returned."""
        self.merges.append(merge)
        if len(self.merges) <= MOST_MERGES:
            return None
        gone = self.merges.pop(0)
        shutil.rmtree(gone.folder, ignore_errors=True)
        return gone

    def find(self, number: int | None) -> Merge | None:
        """A kept merge by its number; the last one for None."""
        if number is None:
            return self.merges[-1] if self.merges else None
        return next((merge for merge in self.merges if merge.number == number), None)


class Visits:
    """All visits, by the key that gradio gives a page."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()
        self.on_close: list[Callable[[Visit], None]] = []

    @property
    def root(self) -> Path:
        """The folder of all visits, inside of gradio's cache."""
        cache = os.environ.get("GRADIO_TEMP_DIR") or str(Path(tempfile.gettempdir()) / "gradio")
        return self._root or Path(cache) / "visits"

    def of(self, key: str | None) -> Visit:
        """The visit of a page, opened with its first request."""
        with self._lock:
            visit = self._visits.get(key or "")
            if visit is None or visit.closed:
                folder = self.root / secrets.token_urlsafe(24)
                folder.mkdir(parents=True, mode=0o700)
                visit = self._visits[key or ""] = Visit(folder)
            visit.seen = time.monotonic()
            idle = [name for name, each in self._visits.items() if time.monotonic() - each.seen > IDLE]
        for name in idle:
            self.close(name)
        return visit

    def close(self, key: str | None) -> None:
        """End a visit: what it made is gone."""
        with self._lock:
            visit = self._visits.pop(key or "", None)
        if visit is not None:
            visit.closed = True
            visit.stop.touch()  # what still runs sees it, or that the folder is gone, and stops
            for tell in self.on_close:
                tell(visit)
            visit.merges.clear()
            shutil.rmtree(visit.folder, ignore_errors=True)

    def close_all(self) -> None:
        """End all visits."""
        for key in list(self._visits):
            self.close(key)

    def used(self) -> int:
        """Bytes on disk of all visits."""
        total = 0
        for path in self.root.rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except OSError:  # gone meanwhile
                continue
        return total
