"""Weights in a folder of safetensors files: headers at once, tensors one by one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import Problems, SourceError, show
from ..types import TensorSpec
from .headers import Place, read_json, read_places, weight_files

if TYPE_CHECKING:
    from ..remote import Remote

_OPEN_FILES = 4  # a sharded model has hundreds; the engine walks through them in order


class Checkpoint:
    """A WeightSource over a folder of safetensors files, sharded or not.

    Opening it reads and checks every header, so that whatever can be wrong with the files is known before any work.

    Args:
        folder: holds model.safetensors, or model.safetensors.index.json and its shards.
        label: how errors call it.
        remote: the same files on the Hub, where some are not on this machine: of these the headers are asked there,
            and they are downloaded when a tensor is wanted, or all by `fetch`.

    Raises:
        SourceError: nothing there that can be read (pickle, GGUF), or a missing, truncated or corrupted file.
    """

    def __init__(self, folder: Path, label: str, remote: Remote | None = None) -> None:
        self.folder, self.label, self.remote = Path(folder), label, remote
        self._promised: dict[str, dict[str, Place]] = {}
        self._specs: dict[str, TensorSpec] = {}
        self._files: dict[str, str] = {}
        self._places: dict[str, Place] = {}
        problems = Problems(f"{label}: {folder} contradicts itself", SourceError)
        absent = remote.absent if remote else ()
        for file, promised in (remote.files if remote else weight_files(self.folder, label)).items():
            if remote and file in absent:
                header = self._promised[file] = remote.places(file, label)
            else:
                header = read_places(self.folder / file, label)
            for name in promised or ():
                if name not in header:
                    problems.add(f"the index says that {show(name)} is in {file}, and it is not")
            for name, place in header.items():
                if name in self._files:
                    problems.add(f"{show(name)} is both in {self._files[name]} and in {file}")
                elif promised is None or name in promised:
                    self._specs[name], self._files[name], self._places[name] = place.spec, file, place
        problems.raise_any()
        if not self._specs:
            raise SourceError(f"{label}: the weights in {folder} hold no tensors")
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def specs(self) -> dict[str, TensorSpec]:
        """The floating-point tensors; integer ones are in `constants`."""
        return {name: spec for name, spec in self._specs.items() if spec.dtype.is_floating_point}

    def constants(self) -> dict[str, Tensor]:
        """Integer tensors: equal in every expert, or an error. (Which floating-point ones are buffers no file says.)"""
        return {name: self.load(name) for name, spec in self._specs.items() if not spec.dtype.is_floating_point}

    def load(self, name: str) -> Tensor:
        """One tensor in its storage dtype, on the CPU; memory-mapped where safetensors does so: never write to it."""
        file = self._files[name]
        try:
            with self._lock:
                return self._handle(file).get_tensor(name)
        except (SafetensorError, OSError) as problem:
            raise SourceError(
                f"{self.label}: tensor {name!r} of {self.folder / file} cannot be read: {problem}"
            ) from None

    @property
    def bytes_absent(self) -> int:
        """Bytes of the files that `fetch` would download."""
        return sum(self.remote.sizes[file] for file in self._promised) if self.remote else 0

    def fetch(self, files: Iterable[str] | None = None) -> None:
        """Have these files, or all, on this machine.

        Raises:
            SourceError: one cannot be downloaded, or is not what its header on the Hub promised.
        """
        wanted = [file for file in files or tuple(self._promised) if file in self._promised]
        if not wanted or self.remote is None:
            return
        self.remote.fetch(wanted)
        for file in wanted:
            if read_places(self.folder / file, self.label) != self._promised[file]:
                raise SourceError(f"{self.label}: {self.folder / file} is not what the Hub described; try again")
            del self._promised[file]

    def without(self, names: Iterable[str]) -> Checkpoint:
        """This checkpoint, with these tensors left out from now on."""
        for name in names:
            del self._specs[name], self._files[name]
        return self

    def place(self, name: str) -> tuple[Path, int, int]:
        """The file that holds a tensor, and its first and last byte (excluded) there."""
        place = self._places[name]
        return self.folder / self._files[name], place.start, place.end

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that hold tensors, in natural order of their names."""
        return tuple(self.folder / name for name in sorted(set(self._files.values())))

    def close(self) -> None:
        """Close all files; they open again when needed."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].__exit__(None, None, None)

    @property
    def aliases(self) -> dict[str, str]:
        """None: files do not say what is tied."""
        return {}

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says, or nothing where there is none."""
        return read_config(self.folder, self.label)

    @property
    def vocabulary(self) -> int | None:
        """The vocabulary's size as config.json tells it."""
        texts = [self.config, self.config.get("text_config")]
        sizes = [text.get("vocab_size") for text in texts if isinstance(text, dict)]
        return next((size for size in sizes if isinstance(size, int)), None)

    def _handle(self, file: str) -> Any:
        if file not in self._open:
            self.fetch((file,))
            if len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1].__exit__(None, None, None)
            self._open[file] = safe_open(self.folder / file, framework="pt").__enter__()
        self._open.move_to_end(file)
        return self._open[file]


def read_config(folder: Path, label: str) -> dict[str, Any]:
    """A folder's config.json; empty where there is none.

    Raises:
        SourceError: it is no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        return {}
    content = read_json(path, label)
    if not isinstance(content, dict):
        raise SourceError(f"{label}: {path} is no configuration: expected a JSON object")
    return content
