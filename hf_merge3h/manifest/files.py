"""The files of a merge and their hashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from blake3 import blake3

from ..errors import SourceError, show

_BLOCK = 1 << 24


@dataclass(frozen=True)
class Finding:
    """What is wrong with a file: `missing`, `changed`, `swapped` (it holds what another should), or `unreadable`."""

    file: str
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.file}: {self.detail}"


def hash_file(path: Path) -> str:
    """BLAKE3 of a file, as hexadecimal digits."""
    digest = blake3(max_threads=blake3.AUTO)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def confined(folder: Path, name: str) -> Path:
    """A file inside of a folder; a manifest's names may come from anywhere.

    Raises:
        SourceError: the name leads out of the folder.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith(("/", "~")) or "\\" in name or "\0" in name or ":" in parts[0]:
        raise SourceError(f"merge3h.json: names the file {show(name)}, which leads out of its folder")
    return folder / name


def compare(folder: Path, hashes: Mapping[str, str]) -> Iterator[Finding]:
    """Where files differ from what their hashes say; files without a hash are not looked at."""
    owners = {digest: name for name, digest in hashes.items()}
    for name, expected in hashes.items():
        path = confined(folder, name)
        if not path.is_file():
            yield Finding(name, "missing", "is missing")
            continue
        try:
            found = hash_file(path)
        except OSError as problem:
            yield Finding(name, "unreadable", f"cannot be read: {problem.strerror or problem}")
            continue
        if found == expected:
            continue
        if found in owners:
            yield Finding(name, "swapped", f"holds what {owners[found]} should hold")
        else:
            yield Finding(name, "changed", f"was changed: BLAKE3 {found[:16]}…, recorded {expected[:16]}…")
