"""Whether plain data has the shape that a JSON schema asks for: the part of JSON Schema that our own schema uses.

A manifest comes from anywhere, so what reads it is told where it departs from its schema, and how, before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import show

#: Characters of a text. Chat templates and recipes are the longest that honest manifests hold.
LONGEST = 1_000_000
_DEEPEST = 64
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
    "number": (int, float),
}  # fmt: skip


def departures(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """Where a value departs from a schema, one line each.

    >>> list(departures({"seed": "x"}, {"properties": {"seed": {"type": "integer"}}}))
    ["seed='x': expected integer"]
    """
    yield from _check(value, schema, schema, "", 0)


def _check(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], path: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        yield f"{path}: nested more than {_DEEPEST} deep"
        return
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "oneOf" in schema or "anyOf" in schema:
        yield from _any_of(value, schema.get("oneOf") or schema["anyOf"], root, path, depth)
        return
    wanted = schema.get("type")
    kinds = [wanted] if isinstance(wanted, str) else wanted or []
    if kinds and not any(_is(value, kind) for kind in kinds):
        yield _says(path, value, " or ".join(kinds))
    elif "const" in schema and value != schema["const"]:
        yield _says(path, value, show(schema["const"]))
    elif "enum" in schema and value not in schema["enum"]:
        yield _says(path, value, " or ".join(map(show, schema["enum"])))
    elif isinstance(value, str):
        if len(value) > LONGEST:
            yield f"{path}: a text of {len(value):,} characters, expected at most {LONGEST:,}"
        elif "pattern" in schema and not re.search(schema["pattern"], value):
            yield _says(path, value, f"a text like {schema['pattern']}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            yield _says(path, value, f"a number from {schema.get('minimum', '-')} to {schema.get('maximum', '-')}")
    else:
        yield from _inside(value, schema, root, path, depth)


def _inside(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], path: str, depth: int) -> Iterator[str]:
    """The parts of a mapping or a list; what the schema says nothing about is still kept short and flat."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _check(each, schema.get("items", {}), root, f"{path}[{number}]", depth + 1)
    elif isinstance(value, dict):
        missing = [key for key in schema.get("required", ()) if key not in value]
        if missing:
            yield f"{path or 'the file'}: lacks {', '.join(missing)}"
        others = schema.get("additionalProperties", {})
        for key, each in value.items():
            inner = schema.get("properties", {}).get(key, others if isinstance(others, Mapping) else {})
            name = key if len(key) <= 60 else f"{key[:60]}..."
            yield from _check(each, inner, root, f"{path}.{name}" if path else name, depth + 1)


def _any_of(value: Any, choices: list[Any], root: Mapping[str, Any], path: str, depth: int) -> Iterator[str]:
    """Nothing where a choice fits, else what the choice says that comes furthest into the value."""
    found = [list(_check(value, choice, root, path, depth + 1)) for choice in choices]
    if all(found):
        yield max(found, key=lambda each: len(each[0].partition("=")[0].partition(":")[0]))[0]


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _says(path: str, value: Any, expected: str) -> str:
    return f"{path or 'the file'}={show(value)}: expected {expected}"
