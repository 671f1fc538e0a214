"""Safetensors files whose every tensor has its place before the first is written."""

from __future__ import annotations

import io
import json
import os
import queue
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import bad
from ..types import TensorSpec
from .ahead import FileHash
from .headers import INDEX, SAFE_NAMES, WEIGHTS

# Bytes. Linux makes a run of pages of what is written at once, and runs of a megabyte were five times as slow to write
# on a virtual machine, most likely because its host takes long free runs back (docs/LOG.md).
_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class Shard:
    """One file: the tensors in it, in the order in which they are written."""

    file: str
    tensors: Mapping[str, TensorSpec]
    header: bytes

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(nbytes(spec) for spec in self.tensors.values())

    def places(self) -> Iterator[tuple[str, int]]:
        """Each tensor, and its first byte in the file."""
        start = len(self.header)
        for name, spec in self.tensors.items():
            yield name, start
            start += nbytes(spec)


def nbytes(spec: TensorSpec) -> int:
    """Bytes that a tensor takes."""
    count = spec.dtype.itemsize
    for side in spec.shape:
        count *= side
    return count


def plan_shards(specs: Mapping[str, TensorSpec], max_shard_size: int) -> tuple[Shard, ...]:
    """Cut tensors, in this order, into files of at most this many bytes (a larger tensor has one for itself).

    >>> spec = TensorSpec((2, 2), torch.float32)
    >>> [shard.file for shard in plan_shards({"a": spec, "b": spec}, 20)]
    ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    """
    parts: list[dict[str, TensorSpec]] = [{}]
    filled = 0
    for name, spec in specs.items():
        if parts[-1] and filled + nbytes(spec) > max_shard_size:
            parts.append({})
            filled = 0
        parts[-1][name] = spec
        filled += nbytes(spec)
    shards = []
    for number, part in enumerate(parts, start=1):
        file = WEIGHTS if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        # Wide dtypes first: then every tensor starts at a multiple of its own item size, which memory maps need.
        ordered = dict(sorted(part.items(), key=lambda item: -item[1].dtype.itemsize))
        shards.append(Shard(file, ordered, _header(ordered)))
    return tuple(shards)


def parse_size(size: int | str) -> int:
    """Bytes from a number or a text as transformers takes it.

    >>> parse_size("5GB"), parse_size("2MiB"), parse_size(100)
    (5000000000, 2097152, 100)
    """
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    text = str(size).strip().upper()
    unit = next((each for each in sorted(units, key=len, reverse=True) if text.endswith(each)), "")
    try:
        found = int(float(text.removesuffix(unit)) * units.get(unit, 1))
    except (ValueError, OverflowError):
        found = 0
    if isinstance(size, bool) or found < 1:
        raise bad("max_shard_size", size, "a size such as '5GB' or '500MB', or a number of bytes")
    return found


class ShardWriter:
    """Writes planned shards, and their index, into a folder.

    Each tensor has its place in a file from the start, so tensors may come in any order, and from several processes,
    as long as each comes from one of them, front to back. The page cache is what writes behind. If hashes are asked
    for, a thread takes them from what lies in the files without a gap.

    Args:
        folder: exists, and is empty of weights.
        shards: from `plan_shards`.
        hashes: take the BLAKE3 of each file on the way.

    Raises:
        OSError: where the disk is full or a file cannot be written; `OutputFolder` says where.
    """

    def __init__(self, folder: Path, shards: tuple[Shard, ...], *, hashes: bool = True) -> None:
        self._folder, self._shards = folder, shards
        self._places = {name: (shard, start) for shard in shards for name, start in shard.places()}
        self._sizes = {name: nbytes(spec) for shard in shards for name, spec in shard.tensors.items()}
        self._written = dict.fromkeys(self._places, 0)
        self._awaited = {name for name, size in self._sizes.items() if size}
        self._open: tuple[str, int, io.FileIO] | None = None
        for shard in shards:
            with (folder / shard.file).open("wb") as file:
                file.write(shard.header)
                file.truncate(shard.size)
        self._behind = _HashBehind(folder, shards) if hashes else None

    def write(self, name: str, part: Tensor) -> None:
        """The next entries of a tensor, in its storage dtype."""
        entries: Any = part.detach().reshape(-1).cpu().contiguous().view(torch.uint8).numpy()
        data = memoryview(entries)
        shard, start = self._places[name]
        assert self._written[name] + len(data) <= self._sizes[name], f"{name!r} is too long"
        file = self._file(shard.file)
        file.seek(start + self._written[name])
        while len(data):  # a full disk may take a part
            count = file.write(data[:_AT_ONCE])
            self._written[name] += count
            data = data[count:]
        if self._written[name] == self._sizes[name]:
            self._awaited.discard(name)

    def finished(self, name: str) -> None:
        """Take note that a tensor is whole, whichever process has written it."""
        self._awaited.discard(name)
        if self._behind is not None:
            self._behind.reach(self._awaited)

    def close(self) -> dict[str, str]:
        """Write the index; the hashes of all files (none where they were not asked for)."""
        self._close()
        assert not self._awaited, f"not written: {sorted(self._awaited)}"
        if len(self._shards) > 1:
            write_index(self._folder, self._shards)
        return {} if self._behind is None else self._behind.finish()

    def abort(self) -> None:
        """Stop as soon as possible; what has been written is the caller's to remove."""
        self._close()
        if self._behind is not None:
            self._behind.abort()

    def _file(self, name: str) -> io.FileIO:
        """The file, open; only the last one stays so, for there may be more of them than a process may open."""
        if self._open is None or self._open[:2] != (name, os.getpid()):  # a forked process would share the position
            self._close()
            self._open = name, os.getpid(), (self._folder / name).open("r+b", buffering=0)
        return self._open[2]

    def _close(self) -> None:
        if self._open is not None:
            self._open[2].close()
            self._open = None


class _HashBehind:
    """A thread that hashes the files up to the first tensor that is not there yet."""

    def __init__(self, folder: Path, shards: tuple[Shard, ...]) -> None:
        self._files = [(FileHash(folder / shard.file), shard) for shard in shards]
        self._order = deque(name for shard in shards for name in shard.tensors)
        self._hashes: dict[str, str] = {}
        self._error: BaseException | None = None
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def reach(self, awaited: Set[str]) -> None:
        """Hash what lies before the first of these."""
        if self._thread is None:  # not before: a thread would not follow a fork
            self._thread = threading.Thread(target=self._work, name="hash-behind", daemon=True)
            self._thread.start()
        while self._order and self._order[0] not in awaited:
            self._waiting.put(self._order.popleft())

    def finish(self) -> dict[str, str]:
        """Wait for the last byte; BLAKE3 by file name."""
        self.reach(frozenset())
        self.stop()
        if self._error is not None:
            raise self._error
        return self._hashes

    def abort(self) -> None:
        """End the thread without what still waits."""
        for hasher, _ in self._files:
            hasher.stopped = True
        self.stop()

    def stop(self) -> None:
        """End the thread when it has come to what was reached."""
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            for hasher, shard in self._files:
                for name, start in shard.places():
                    if self._waiting.get() is None:
                        return
                    hasher.reach(start + nbytes(shard.tensors[name]))
                hasher.reach(hasher.size)
                self._hashes[shard.file] = hasher.finish()
        except BaseException as error:  # handed to the caller's thread, which raises it
            self._error = error


def write_index(folder: Path, shards: tuple[Shard, ...]) -> None:
    """The index of a sharded model, as transformers writes it."""
    total = sum(nbytes(spec) for shard in shards for spec in shard.tensors.values())
    table = {name: shard.file for shard in shards for name in shard.tensors}
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(table.items()))}
    (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _header(tensors: Mapping[str, TensorSpec]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, spec in tensors.items():
        end = offset + nbytes(spec)
        entries[name] = {"dtype": SAFE_NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the first tensor starts at a multiple of 8, too
    return len(text).to_bytes(8, "little") + text
