"""The last thing that happens to a folder, whichever door its weights came through: manifest and card are written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..manifest import FILE, Manifest
from ..manifest.files import hash_file
from ..models.cards import FILE as CARD
from ..publishing.card import write_card
from ..registry import Method


def finish(folder: Path, manifest: Manifest, card: str | None = None) -> Manifest:
    """Write what belongs to every merged folder beside weights, config and tokenizer.

    Args:
        folder: holds everything else already.
        manifest: what was done.
        card: the text of a card whose handwriting is kept; None for the one that lies in the folder.
    """
    manifest.save(folder)
    write_card(folder, manifest=manifest, old=card)
    return manifest


def hash_files(paths: Iterable[Path]) -> dict[str, str]:
    """BLAKE3 of files by name, in order; not of card and manifest, which change later, nor of hidden files."""
    found = {}
    for path in sorted(paths, key=lambda path: path.name):
        if path.name in (FILE, CARD) or path.name.startswith(".") or not path.is_file():
            continue
        found[path.name] = hash_file(path)
    return found


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
