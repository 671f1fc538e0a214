"""Safetensors files written front to back, tensor after tensor, by a thread of their own."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import OutputError, bad
from ..types import TensorSpec
from .headers import INDEX, SAFE_NAMES, WEIGHTS

_AHEAD = 16  # pieces that wait to be written; a piece is a chunk of the merge, so a few MiB
_PIECE = 1 << 24  # bytes of a longer one that are copied into the queue at a time


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

    Tensors come in the shards' order, whole or piece by piece. A thread writes them (and hashes them, if asked) while
    the caller works out the next ones; what waits is bounded.

    Args:
        folder: exists, and is empty of weights.
        shards: from `plan_shards`.
        hashes: take the BLAKE3 of each file on the way.

    Raises:
        OutputError: from `write` and `close`, where the disk is full or a file cannot be written.
    """

    def __init__(self, folder: Path, shards: tuple[Shard, ...], *, hashes: bool = True) -> None:
        self._folder, self._shards, self._hashing = folder, shards, hashes
        self._queue: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._error: BaseException | None = None
        self._expected = iter([(name, nbytes(spec)) for shard in shards for name, spec in shard.tensors.items()])
        self._current, self._left = "", 0
        #: BLAKE3 by file name, whole after `close`.
        self.hashes: dict[str, str] = {}
        self._thread = threading.Thread(target=self._work, name="write-behind", daemon=True)
        self._thread.start()

    def write(self, name: str, part: Tensor) -> None:
        """The next entries of a tensor, in its storage dtype; the memory is the writer's from now on."""
        if not self._left:
            self._current, self._left = next(self._expected, ("", -1))
            while self._left == 0 and self._current != name:  # an empty tensor has nothing to come
                self._current, self._left = next(self._expected, ("", -1))
        data = part.detach().reshape(-1).cpu().contiguous().view(torch.uint8)
        assert name == self._current, f"{name!r} out of order: {self._current!r} is next"
        assert len(data) <= self._left, f"{name!r} is too long"
        self._left -= len(data)
        for start in range(0, len(data), _PIECE):
            self._put(data[start : start + _PIECE])

    def close(self) -> dict[str, str]:
        """Wait for the last byte; the hashes of all files (none where they were not asked for)."""
        assert not self._left, f"{self._current!r} lacks {self._left} bytes"
        self._put(None)
        self._thread.join()
        self._raise()
        return self.hashes

    def abort(self) -> None:
        """Stop as soon as possible; what has been written is the caller's to remove."""
        self._error = self._error or OutputError("aborted")
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._queue.put(None)
                self._thread.join(0.1)

    def _put(self, item: Any) -> None:
        while True:
            self._raise()
            try:
                return self._queue.put(item, timeout=0.5)
            except queue.Full:
                continue

    def _raise(self) -> None:
        if isinstance(self._error, OSError):
            raise OutputError(f"{self._folder.parent}: cannot be written: {self._error.strerror or self._error}")
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            for shard in self._shards:
                if not self._write_shard(shard):
                    return
            if len(self._shards) > 1:
                write_index(self._folder, self._shards)
        except BaseException as error:  # handed to the caller's thread, which raises it
            self._error = error

    def _write_shard(self, shard: Shard) -> bool:
        """One file; false where the work was aborted."""
        from blake3 import blake3

        hasher = blake3() if self._hashing else None
        with (self._folder / shard.file).open("wb", buffering=0) as file:
            data: Any = memoryview(shard.header)
            written = 0
            while True:
                if hasher is not None:
                    hasher.update(data)
                written += len(data)
                while len(data):  # a full disk may take a part
                    data = data[file.write(data) :]
                if written == shard.size:
                    break
                tensor = self._queue.get()
                if tensor is None or self._error is not None:
                    return False
                data = memoryview(tensor.numpy())
        if hasher is not None:
            self.hashes[shard.file] = hasher.hexdigest()
        return True


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
