"""Where a card's written parts stand in a text that a person may edit: between markers, each section by itself.

A section is what stands between `<!-- merge3h:NAME -->` and `<!-- /merge3h:NAME -->`, each alone on its line. Whatever
else the text holds is kept byte for byte, wherever sections were moved to. In the front matter, ours stands between two
comment lines; a key that a person writes outside of them goes before ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ..errors import SourceError

_MARK = re.compile(r"^<!-- merge3h:([a-z]+) -->[ \t]*\r?\n(.*?)^<!-- /merge3h:\1 -->[ \t]*$", re.M | re.S)
_STRAY = re.compile(r"^<!-- /?merge3h:([a-z]+) -->[ \t]*$", re.M)
_OURS = re.compile(r"^# merge3h: written by hf-merge3h[^\n]*\n.*?^# merge3h: end[ \t]*\r?\n", re.M | re.S)
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*(\r?\n|\Z)", re.M | re.S)
#: What the cards say that transformers and PEFT write by themselves; nobody's handwriting.
_DEFAULTS = ("[More Information Needed]", "## Training Details", "# Model Card for")


def is_default(text: str) -> bool:
    """Whether a card is the empty form that transformers or PEFT write, which ours replaces."""
    return all(each in text for each in _DEFAULTS) and not _STRAY.search(text)


def merge(old: str, data: Mapping[str, Any], sections: Mapping[str, str]) -> str:
    """A card with new metadata and sections, and everything that was written by hand.

    Args:
        old: the card as it is; empty for none.
        data: metadata, ours.
        sections: name -> Markdown, in the order of a new card.

    Raises:
        SourceError: markers that do not pair, so that ours cannot be told from theirs.
    """
    old = "" if is_default(old) else old
    front, body = _split(old)
    return _front(front, data) + _body(body, sections)


def handwritten(text: str) -> str:
    """What is left of a card without our parts: tests compare it."""
    front, body = _split(text)
    return _OURS.sub("", front) + _MARK.sub("", body)


def _split(text: str) -> tuple[str, str]:
    """The inside of the front matter, and everything after it."""
    found = _FRONT.match(text)
    return (found.group(1), text[found.end() :]) if found else ("", text)


def _front(old: str, data: Mapping[str, Any]) -> str:
    theirs = _OURS.sub("", old)
    try:
        known = yaml.safe_load(theirs) or {}
    except (yaml.YAMLError, ValueError, RecursionError):
        known = None
    if not isinstance(known, dict):
        raise SourceError("README.md: its metadata (between the lines ---) is no YAML mapping; mend or remove it")
    ours = {key: value for key, value in data.items() if key not in known}
    dumped = yaml.safe_dump(ours, sort_keys=False, allow_unicode=True, width=10_000) if ours else ""
    block = (
        f"# merge3h: written by hf-merge3h from merge3h.json; keys written outside of this block go before it\n{dumped}"
    )
    block += "# merge3h: end\n"
    place = _OURS.search(old)
    inside = old[: place.start()] + block + old[place.end() :] if place else block + old
    return f"---\n{inside}---\n"


def _body(old: str, sections: Mapping[str, str]) -> str:
    found = [match.group(1) for match in _MARK.finditer(old)]
    strays = _STRAY.findall(old)
    if len(strays) != 2 * len(found) or len(set(found)) < len(found):
        names = sorted({name for name in strays if strays.count(name) != 2}) or sorted(set(found))
        raise SourceError(
            f"README.md: the markers of {', '.join(names)} do not pair (<!-- merge3h:NAME --> and "
            "<!-- /merge3h:NAME -->, each once and alone on its line); mend them, or remove the section"
        )
    text = _MARK.sub(lambda match: _section(match.group(1), sections.get(match.group(1), "")), old)
    for name in sections:
        if name not in found:
            text = _insert(text, name, sections)
            found.append(name)
    return text if text.endswith("\n") else f"{text}\n"


def _insert(text: str, name: str, sections: Mapping[str, str]) -> str:
    """Put a new section behind the nearest one that goes before it, or before everything."""
    order: Sequence[str] = list(sections)
    places = {match.group(1): match for match in _MARK.finditer(text)}
    before = [each for each in order[: order.index(name)] if each in places]
    new = _section(name, sections[name])
    if before:
        end = places[before[-1]].end()
        return f"{text[:end]}\n\n{new}{text[end:]}"
    return f"\n{new}\n{text}" if text.startswith("\n") or not text else f"\n{new}\n\n{text}"


def _section(name: str, content: str) -> str:
    return f"<!-- merge3h:{name} -->\n{content.strip()}\n<!-- /merge3h:{name} -->"
