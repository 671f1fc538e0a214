"""YAML as plain data that remembers its lines, read with limits.

The tree of nodes is walked here instead of by PyYAML's constructor: so each value keeps its line for messages, a key
that stands twice is an error instead of a silent choice, and a file whose aliases multiply (a "YAML bomb") is stopped
when it passes the limit instead of when memory ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.reader import ReaderError

from ..errors import RequestError, bad, in_yaml, show

#: Keys and indices that lead to a value.
Path = tuple[str | int, ...]

MOST_CHARACTERS = 1 << 20
_MOST_VALUES = 50_000
_DEEPEST = 24
_PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_MERGE = "tag:yaml.org,2002:merge"
_HALF = "holds half a character (a lone surrogate), which no file can: write the character itself"


@dataclass(frozen=True)
class Marked:
    """Plain data and where each part of it stands.

    Attributes:
        data: mappings with string keys, lists, strings, numbers, booleans, None.
        label: what messages call the file.
        lines: line of each value by its path; empty where the data did not come from a text.
    """

    data: Any
    label: str
    lines: Mapping[Path, int] = field(default_factory=dict)

    def where(self, path: Path) -> str:
        """File and line of a value, or of the nearest thing around it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return f"{self.label}:{self.lines[path[:end]]}"
        return self.label

    def say(self, path: Path, problem: str) -> str:
        """A problem with its place.

        >>> Marked({}, "r.yaml", {("models", 0): 3}).say(("models", 0, "model"), "is missing")
        'r.yaml:3: models[0].model is missing'
        """
        name = dotted(path)
        return f"{self.where(path)}: {name}{' ' if name and not problem.startswith('=') else ''}{problem}"

    def bad(self, path: Path, value: object, expected: str, remedy: str = "") -> str:
        """The one form of a value error, with its place."""
        return self.told(path, bad("", value, expected, remedy))

    def told(self, path: Path, error: RequestError) -> str:
        """An error that was found elsewhere, with its place; what it is about goes by the name that stands there.

        >>> Marked({}, "r.yaml", {("parameters",): 3}).told(("parameters", "lambda"), bad("scale", "x", "a number"))
        "r.yaml:3: parameters.lambda='x': expected a number"
        """
        if error.reason:
            return self.say(path, f"={in_yaml(show(error.value))}: {error.of_recipe().reason}")
        return self.told_near(path, error)

    def told_near(self, path: Path, error: RequestError) -> str:
        """The same where what it is about does not stand at the place itself, but somewhere in it."""
        return f"{self.where(path)}: {error.of_recipe()}"


def dotted(path: Path) -> str:
    """A path as one writes it.

    >>> dotted(("models", 1, "parameters", "weight"))
    'models[1].parameters.weight'
    """
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key[:60]}" if text else key[:60]
    return text


def parse(text: str, label: str) -> Marked:
    """Read one YAML document.

    Raises:
        RequestError: no YAML, too large, too deep, a key given twice, or a tag that stands for more than plain data.
    """
    if len(text) > MOST_CHARACTERS:
        raise RequestError(f"{label}: {len(text)} characters: a recipe has at most {MOST_CHARACTERS}")
    try:
        _check_depth(text, label)
        documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        if len(documents) > 1:
            mark = documents[1].start_mark
            line = mark.line + 1 if mark else 1
            raise RequestError(
                f"{label}:{line}: a second document begins: several recipes in one file (mergekit-multi) are not "
                "supported; give each its own file"
            )
        walk = _Walk(label)
        return Marked(walk.value(documents[0], ()) if documents else None, label, walk.lines)
    except RequestError:
        raise
    except yaml.YAMLError as error:
        raise RequestError(_yaml_message(error, label, text)) from error
    except (ValueError, OverflowError, RecursionError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise RequestError(f"{label}: no YAML that can be read: {show(str(error))}") from error


def _check_depth(text: str, label: str) -> None:
    """Walk the events, which takes no recursion, before the composer, which does."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        if depth > _DEEPEST or number > 4 * _MOST_VALUES:
            what = f"nested deeper than {_DEEPEST}" if depth > _DEEPEST else "too many values"
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise RequestError(f"{label}:{line}: {what}: this is no recipe")


def _yaml_message(error: yaml.YAMLError, label: str, text: str) -> str:
    mark, place = getattr(error, "problem_mark", None), label
    if mark is not None:
        place = f"{label}:{mark.line + 1}"
    elif isinstance(error, ReaderError):  # a character that is none of YAML's
        place = f"{label}:{text.count(chr(10), 0, error.position) + 1}"
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{place}: no YAML that can be read: {show(problem)}"


class _Walk:
    """Turns nodes into plain data."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.lines: dict[Path, int] = {}
        self._left = _MOST_VALUES
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, path: Path) -> Any:
        """The data of a node; aliases are counted each time they are followed."""
        self._left -= 1
        line = node.start_mark.line + 1
        if self._left < 0 or len(path) > _DEEPEST:
            raise RequestError(f"{self.label}:{line}: aliases that multiply or contain themselves: this is no recipe")
        self.lines.setdefault(path, line)
        if isinstance(node, yaml.ScalarNode):
            found = self._scalars.construct_object(node)
            if not _is_text(found):
                raise RequestError(f"{self.label}:{line}: {show(found)} {_HALF}")
            if found is None or isinstance(found, (str, bool, int, float)):
                return found
            return node.value  # a date: somebody's name for a model, most likely
        if node.tag not in _PLAIN:
            raise RequestError(f"{self.label}:{line}: the tag {show(node.tag)} is not plain data")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._mapping(node, path)

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE:
                parts = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for part in parts:
                    found = self.value(part, path)
                    if not isinstance(found, dict):
                        raise RequestError(f"{self.label}:{line}: << takes mappings, not {in_yaml(show(found))}")
                    merged = {**found, **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise RequestError(f"{self.label}:{line}: a key must be a word")
            key = key_node.value
            if not _is_text(key):
                raise RequestError(f"{self.label}:{line}: {show(key)} {_HALF}")
            if key in own:
                raise RequestError(f"{self.label}:{line}: {dotted((*path, key))} stands twice")
            self.lines[(*path, key)] = line
            own[key] = self.value(value_node, (*path, key))
        return {**merged, **own}


def _is_text(value: Any) -> bool:
    """Whether this can be written into a file: all but text with a surrogate that lacks its other half."""
    try:
        return not isinstance(value, str) or value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def from_data(data: Any, label: str) -> Marked:
    """Plain data that a program made, copied and checked to be plain."""
    left = [_MOST_VALUES]

    def copy(value: Any, path: Path) -> Any:
        left[0] -= 1
        if left[0] < 0 or len(path) > _DEEPEST:
            raise RequestError(f"{label}: {dotted(path)} is nested too deeply or too large for a recipe")
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise RequestError(Marked(None, label).say(path, f"has the key {show(key)}: keys are words"))
                if not _is_text(key):
                    raise RequestError(f"{label}: {show(key)} {_HALF}")
            return {key: copy(each, (*path, key)) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [copy(each, (*path, index)) for index, each in enumerate(value)]
        value = str(value) if hasattr(value, "__fspath__") else value
        if not _is_text(value):
            raise RequestError(f"{label}: {dotted(path)}={show(value)}: {_HALF}")
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
        raise RequestError(f"{label}: {dotted(path)}={show(value)}: expected text, a number, true or false")

    return Marked(copy(data, ()), label)
