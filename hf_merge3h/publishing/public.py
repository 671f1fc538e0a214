"""What others see of a manifest: where somebody keeps models, or which server answered, is nobody's business."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..manifest import Manifest
from .facts import Facts, facts_of, folder_name
from .recipes import pins, renamed
from .text import is_hub_id


def public(manifest: Manifest) -> Manifest:
    """The manifest with local folders named by their last part, in whatever text they stand."""
    facts = facts_of(manifest)
    names = {key: value for key, value in pins(facts).items() if "@" not in value}
    content = dict(facts.content)
    content["models"] = renamed(content["models"], names)
    content["recipe"] = {**content["recipe"], "given": renamed(content["recipe"]["given"], names)}
    names |= {place: folder_name(place) for place in _evaluated(facts)}
    for key in ("warnings", "evaluation"):
        if key in content:
            content[key] = _told(content[key], names)
    return Manifest(content)


def _evaluated(facts: Facts) -> Iterator[str]:
    """Folders of the models that were evaluated, as they are spelled: `folder`, or `base + adapter`."""
    for shown in ((facts.evaluation or {}).get("models") or {}).values():
        for part in str(shown).split(" + "):
            if ("/" in part or "\\" in part) and not is_hub_id(part.partition("@")[0]) and "://" not in part:
                yield part


def _told(value: Any, names: Mapping[str, str]) -> Any:
    """Plain data in which no text has the names' keys, or the address of a server."""
    if isinstance(value, dict):
        return {key: _told(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_told(each, names) for each in value]
    if not isinstance(value, str):
        return value
    for place in sorted(names, key=len, reverse=True):
        value = value.replace(place, names[place])
    return re.sub(r" at https?://\S+", " at an endpoint", value)
