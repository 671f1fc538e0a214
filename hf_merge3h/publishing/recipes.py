"""The recipe of a merge as a card shows it, and as a publication carries it: pinned, so that it can be repeated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from .facts import Facts, Parent


def recipe_yaml(facts: Facts) -> str:
    """The recipe as YAML, each Hub id pinned to its commit, each folder named by its last part."""
    return to_yaml(renamed(json.loads(json.dumps(facts.content["recipe"]["given"])), pins(facts)))


def to_yaml(recipe: Mapping[str, Any]) -> str:
    """A recipe as people write it: keys in their order, lists of numbers on one line."""
    return yaml.dump(recipe, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def pinned_recipe(facts: Facts) -> dict[str, Any]:
    """The recipe with every source spelled as it can be found: Hub ids with commits, folders as they were."""
    names: dict[str, str] = {}
    for entry in facts.content["models"]:
        parts = [_found(entry), *map(_found, entry["adapters"])]
        alone = entry["adapters"] and str(entry["given"]) == str(entry["adapters"][0]["source"])
        names[str(entry["given"])] = parts[1] if alone else "+".join(parts)
        names.update({str(each["source"]): _found(each) for each in entry["adapters"]})
    given: dict[str, Any] = renamed(json.loads(json.dumps(facts.content["recipe"]["given"])), names)
    return given


def _found(entry: Mapping[str, Any]) -> str:
    return f"{entry['source']}@{entry['commit']}" if entry.get("commit") else str(entry["source"])


def pins(facts: Facts) -> dict[str, str]:
    """How the recipe spells a model -> how others can find it."""
    found: dict[str, str] = {}
    for entry, whole in zip(facts.content["models"], _wholes(facts), strict=True):
        found[str(entry["given"])] = whole
        found.setdefault(str(entry["source"]), whole.partition("+")[0])
        for each in entry["adapters"]:
            found.setdefault(str(each["source"]), _pin(each))
    # A class's name, or one word, is no place; it may stand elsewhere and mean something else.
    return {key: value for key, value in found.items() if "/" in key or "\\" in key}


def _wholes(facts: Facts) -> list[str]:
    wholes = []
    for entry in facts.content["models"]:
        parts = [_pin(entry), *(_pin(each) for each in entry["adapters"])]
        alone = entry["adapters"] and str(entry["given"]) == str(entry["adapters"][0]["source"])
        wholes.append(parts[1] if alone else "+".join(parts))
    return wholes


def _pin(entry: Mapping[str, Any]) -> str:
    parent = Parent("", str(entry["source"]), entry.get("commit"), "", None, False, {})
    return f"{parent.hub_id}@{parent.commit}" if parent.hub_id else parent.name


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Plain data with every text that is a name replaced."""
    if isinstance(value, dict):
        return {
            names.get(key, key) if isinstance(key, str) else key: renamed(each, names) for key, each in value.items()
        }
    if isinstance(value, list):
        return [renamed(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


class _Dumper(yaml.SafeDumper):
    """Lists of numbers stay on one line."""


def _sequence(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    flat = bool(values) and all(isinstance(each, (int, float)) for each in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flat)


_Dumper.add_representer(list, _sequence)
