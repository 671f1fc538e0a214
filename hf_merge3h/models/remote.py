"""Weights that lie on the Hub: their headers are asked there, the files fetched when a tensor is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SourceError, one_line_of, show
from .place import Where, one_line, snapshot
from .weights.headers import Place, check_places

if TYPE_CHECKING:
    from huggingface_hub.utils import SafetensorsFileMetadata

#: bytes of a header with no tensor: its length, and {}
_SHORTEST = 10


@dataclass(frozen=True)
class Remote:
    """The files that hold a model's weights in a repository.

    Attributes:
        where: the repository, at a commit.
        folder: of the commit in the cache on this machine.
        files: of the weights -> the tensors that an index says are in each, if any.
        sizes: bytes of each.
    """

    where: Where
    folder: Path
    files: Mapping[str, list[str] | None]
    sizes: Mapping[str, int]

    @property
    def absent(self) -> tuple[str, ...]:
        """The files that are not on this machine (yet)."""
        return tuple(name for name in self.files if not (self.folder / name).is_file())

    def fetch(self, names: Iterable[str]) -> None:
        """Download these files.

        Raises:
            SourceError: the Hub refuses, cannot be reached, or there is no space.
        """
        with one_line(self.where):
            snapshot(self.where, self.where.revision, tuple(names), bar=True)

    def places(self, name: str, label: str) -> dict[str, Place]:
        """What `read_places` would say of a file, by requests for its header alone.

        Raises:
            SourceError: it is no safetensors file, or contradicts itself or its size.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import SafetensorsParsingError

        below = f"{self.where.subfolder}/" if self.where.subfolder else ""
        shown = f"{label}: {self.where!r}/{name}"
        try:
            with one_line(self.where):
                header: SafetensorsFileMetadata = HfApi().parse_safetensors_file_metadata(
                    self.where.repo, below + name, revision=self.where.revision, token=self.where.options["token"]
                )
        except (SafetensorsParsingError, AttributeError, KeyError, TypeError) as problem:
            raise SourceError(f"{shown} is no whole safetensors file: {show(one_line_of(problem))}") from None
        entries = {
            tensor: {"dtype": told.dtype, "shape": told.shape, "data_offsets": list(told.data_offsets)}
            for tensor, told in header.tensors.items()
        }
        size = self.sizes[name]
        first = size - max((told.data_offsets[1] for told in header.tensors.values()), default=0)
        if first < _SHORTEST:
            reason = f"its header promises {size - first} bytes of tensors, and it has {size} in all"
            raise SourceError(f"{shown} is no whole safetensors file: {reason}")
        return check_places(entries, first, size, shown)


def remote_of(where: Where, commit: str, folder: Path, files: Mapping[str, list[str] | None]) -> Remote:
    """These files of a repository at a commit; those that it lacks have no size."""
    from huggingface_hub import HfApi

    told = HfApi(token=where.options["token"]).model_info(where.repo, revision=commit, files_metadata=True)
    start = f"{where.subfolder}/" if where.subfolder else ""
    known = {each.rfilename: each.size or 0 for each in told.siblings or ()}
    sizes = {name: known[start + name] for name in files if start + name in known}
    return Remote(replace(where, revision=commit), folder, files, sizes)
