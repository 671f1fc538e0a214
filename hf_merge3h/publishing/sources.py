"""What the sources of a recipe say of their licences, before any weights are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..models.cards import FILE as CARD
from ..models.cards import read_card
from ..recipes.types import Recipe
from .facts import Parent, each_once
from .refusals import in_one_line, patiently


def stated(recipe: Recipe, *, token: str | bool | None = None, local_files_only: bool = False) -> tuple[Parent, ...]:
    """All models and adapters of a recipe, with what their cards say. Of the Hub's, the card alone is fetched.

    Raises:
        SourceError: a source that does not exist or cannot be reached.
    """
    found = []
    for reference in recipe.models:
        found.append(
            _parent(reference.source, reference.role, "model", token, local_files_only, bool(reference.adapters))
        )
        found += [_parent(each, reference.role, "adapter", token, local_files_only) for each in reference.adapters]
    return each_once(found)


def _parent(source: str, role: str, kind: str, token: Any, offline: bool, carrier: bool = False) -> Parent:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return Parent(role, source, None, kind, read_card(folder), True, {}, carrier)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repo, _, revision = source.partition("@")
    with in_one_line(repo, "reading its card", token):
        try:
            path = Path(
                patiently(
                    lambda: hf_hub_download(
                        repo, CARD, revision=revision or None, token=token, local_files_only=offline
                    )
                )
            )
        except LocalEntryNotFoundError:
            if not offline:
                raise
            return Parent(role, repo, None, kind, None, False, {}, carrier)
        except EntryNotFoundError:
            return Parent(role, repo, None, kind, None, True, {}, carrier)
    return Parent(role, repo, path.parent.name, kind, read_card(path.parent), True, {}, carrier)
