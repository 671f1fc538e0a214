"""What a source says about itself: licence, languages and tags, from the front matter of its README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FILE = "README.md"
#: What a manifest keeps of a card: single words, and lists of them.
WORDS, LISTS = ("license_name", "license_link", "pipeline_tag"), ("language", "tags")
_LIMIT = 400_000  # bytes of front matter; cards with hundreds of results have some hundred thousand
_LONGEST = 300  # characters of a value; a licence's link is among them
_MOST = 100  # entries of a list

Card = dict[str, Any]


def read_card(folder: Path) -> Card | None:
    """The facts of a folder's model card, or None where there is none that says anything.

    The file is not trusted: it is read up to a limit, no tag of YAML makes an object, and of its values only words and
    flat lists of words are taken, each cut to a length. A card that cannot be read counts as none.

    Args:
        folder: may hold a README.md that begins with front matter.

    Returns:
        `license` (a word, or a list where the card has one), `license_name`, `license_link`, `pipeline_tag` (words),
        `language`, `tags` (lists); None, or an empty list, for what the card does not say.
    """
    text = _front_matter(folder / FILE)
    if text is None:
        return None
    # Every scalar stays text: "no" is Norwegian here, and dates are words. Not in C, where depth ends the process.
    try:
        found = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError):
        return None
    if not isinstance(found, dict):
        return None
    licences = _words(found.get("license"))
    card: Card = {"license": licences if len(licences) > 1 else next(iter(licences), None)}
    card.update({key: next(iter(_words(found.get(key))), None) for key in WORDS})
    card.update({key: _words(found.get(key)) for key in LISTS})
    return card


def _front_matter(path: Path) -> str | None:
    """What stands between the first line, `---`, and the next such line."""
    try:
        with path.open("rb") as file:
            raw = file.read(_LIMIT)
    except OSError:
        return None
    lines = raw.decode("utf-8-sig", errors="replace").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return None
    end = next((number for number, line in enumerate(lines[1:], start=1) if line.rstrip() == "---"), None)
    return None if end is None else "\n".join(lines[1:end])


def _words(value: Any) -> list[str]:
    """A word or a flat list of words as a list, without what says nothing."""
    values = value if isinstance(value, list) else [value]
    words = [
        "".join(c if c.isprintable() else " " for c in each[:_LONGEST]) for each in values if isinstance(each, str)
    ]
    return [word.strip() for word in words if word.strip() not in ("", "~", "null")][:_MOST]
