"""The last thing that happens to a folder, whichever door its weights came through: its manifest is written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from ..manifest import FILE, Manifest
from ..models.cards import FILE as CARD
from ..registry import Method

_BLOCK = 1 << 24


def finish(folder: Path, manifest: Manifest) -> Manifest:
    """Write what belongs to every merged folder beside weights, config and tokenizer.

    Args:
        folder: holds everything else already.
        manifest: what was done.
    """
    manifest.save(folder)
    return manifest


def hash_files(paths: Iterable[Path]) -> dict[str, str]:
    """BLAKE3 of files by name, in order; not of card and manifest, which change later, nor of hidden files."""
    found = {}
    for path in sorted(paths, key=lambda path: path.name):
        if path.name in (FILE, CARD) or path.name.startswith(".") or not path.is_file():
            continue
        found[path.name] = hash_file(path)
    return found


def hash_file(path: Path) -> str:
    """BLAKE3 of a file, as hexadecimal digits."""
    digest = blake3()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def method_facts(method: Method | None) -> dict[str, str]:
    """What a manifest says of a method; without one, tensors were copied."""
    if method is None:
        return {"name": "passthrough", "title": "Passthrough", "paper": "", "notice": ""}
    return {
        "name": method.name,
        "title": method.shown_title,
        "paper": method.paper,
        "notice": method.reconstruction,
    }
