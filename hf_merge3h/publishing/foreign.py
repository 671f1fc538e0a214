"""Recipes read back from other people's merges: mergekit's config or card, or a merge of ours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import RequestError, SourceError, label_of, show
from ..manifest import FILE as MANIFEST
from ..manifest import load_manifest
from ..recipes.read import read_recipe
from .card import FILE as CARD
from .card import read_old
from .facts import facts_of
from .recipes import pinned_recipe, to_yaml
from .remote import local_folder
from .text import one_line

CONFIGS = ("mergekit_config.yml", "mergekit_config.yaml", "recipe.yaml")
_BLOCK = re.compile(r"^(`{3,}|~{3,})[ \t]*ya?ml[ \t]*\r?\n(.*?)^\1[ \t]*$", re.M | re.S)
_LIMIT = 4_000_000


def recipe_of(place: str | os.PathLike[str]) -> str:
    """The recipe of a merge, as YAML text with a comment that says where it was read.

    Args:
        place: a recipe or card (a file), a folder, or a Hub id: mergekit's `mergekit_config.yml`, our `merge3h.json`,
            or the first YAML block with a merge method in the card.

    Raises:
        SourceError: nothing there holds a recipe.
        RequestError: there is one, and it makes no sense.
    """
    problems = []
    for name, text in _candidates(place):
        try:
            read_recipe(text, label=name)
        except RequestError as problem:
            problems.append(problem)
            continue
        passed_over = "".join(f"# Passed over: {one_line(problem)}\n" for problem in problems)
        return f"# Read from {name} of {label_of(os.fspath(place))}.\n{passed_over}{text.strip()}\n"
    if problems:
        raise problems[0]
    raise SourceError(
        f"{show(os.fspath(place))}: holds no recipe: expected {CONFIGS[0]}, {MANIFEST}, or a card with a YAML block "
        "that has merge_method or slices"
    )


def _candidates(place: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    path = Path(place).expanduser()
    if path.is_file():
        yield from _of_file(path)
        return
    folder = local_folder(place, (*CONFIGS, MANIFEST, CARD))
    if (folder / MANIFEST).is_file():
        yield MANIFEST, to_yaml(pinned_recipe(facts_of(load_manifest(folder))))
    for name in (*CONFIGS, CARD):
        if (folder / name).is_file():
            yield from _of_file(folder / name)


def _of_file(path: Path) -> Iterator[tuple[str, str]]:
    if path.name == MANIFEST:
        yield path.name, to_yaml(pinned_recipe(facts_of(load_manifest(path))))
    elif path.suffix.lower() == ".md":
        for _, block in _BLOCK.findall(read_old(path.parent) if path.name == CARD else _text(path)):
            if re.search(r"^(merge_method|slices|models)\s*:", block, re.M):
                yield path.name, block
    else:
        yield path.name, _text(path)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise SourceError(f"{path}: cannot be read as text: {problem}") from None
