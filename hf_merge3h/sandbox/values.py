"""Whether a value that came out of the sandbox equals what a test expects, decided outside of it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any


def matches(sent: Any, expected: Any) -> bool:
    """Whether `sent` (decoded JSON of `inside.harness.encode`) equals the literal `expected`, as `==` says in Python.

    Only plain data is believed: an object of a class of the candidate's own is equal to nothing, whatever its `__eq__`
    says. Work is bounded by the size of `expected`, never by what was sent.

    >>> matches(["l", ["i", "0x1"], ["t"]], [1, ()]), matches(["i", "0x1"], True), matches(["o", "41"], 1)
    (True, True, False)
    """
    try:
        return _matches(sent, expected)
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        RecursionError,
        OverflowError,
        ArithmeticError,
    ):
        return False  # nothing that the harness sends: whoever made it up is not believed


def _matches(sent: Any, expected: Any) -> bool:
    if sent is None or expected is None:
        return sent is None and expected is None
    if isinstance(sent, bool) or sent[0] in ("i", "f", "c", "q"):
        return isinstance(expected, (int, float, complex)) and bool(_number(sent) == expected)
    tag, *rest = sent
    if tag == "s":
        return isinstance(expected, str) and bytes.fromhex(rest[0]).decode("utf-8", "surrogatepass") == expected
    if tag == "b":
        return isinstance(expected, bytes) and bytes.fromhex(rest[0]) == expected
    if tag in ("l", "t"):
        kind = list if tag == "l" else tuple
        return isinstance(expected, kind) and len(rest) == len(expected) and all(map(_matches, rest, expected))
    if tag == "u":
        return isinstance(expected, (set, frozenset)) and len(rest) == len(expected) and _same_members(rest, expected)
    if tag == "d":
        return isinstance(expected, dict) and len(rest) == len(expected) and _same_items(rest, expected)
    return False


def _number(sent: Any) -> int | float | complex | Fraction:
    if isinstance(sent, bool):
        return sent
    tag, *parts = sent
    if tag == "i":
        return int(parts[0], 16)
    if tag == "f":
        return float.fromhex(parts[0])
    if tag == "c":
        return complex(float.fromhex(parts[0]), float.fromhex(parts[1]))
    if len(parts[0]) + len(parts[1]) > 10_000:
        raise ValueError("a fraction that takes long to reduce")
    return Fraction(int(parts[0], 16), int(parts[1], 16))


def _same_members(sent: list[Any], expected: set[Any] | frozenset[Any]) -> bool:
    return {_plain(value) for value in sent} == expected


def _same_items(sent: list[Any], expected: dict[Any, Any]) -> bool:
    pairs = [(_plain(key), value) for key, value in sent]
    known = {key for key, _ in pairs} == set(expected)
    return known and all(_matches(value, expected[key]) for key, value in pairs)


def _plain(sent: Any) -> Any:
    """A member of a set or a key of a dict, as the value it was."""
    if sent is None:
        return None
    if isinstance(sent, bool) or sent[0] in ("i", "f", "c", "q"):
        return _number(sent)
    tag, *rest = sent
    if tag == "s":
        return bytes.fromhex(rest[0]).decode("utf-8", "surrogatepass")
    if tag == "b":
        return bytes.fromhex(rest[0])
    if tag == "t":
        return tuple(map(_plain, rest))
    if tag == "u":
        return frozenset(map(_plain, rest))
    raise ValueError(f"{tag!r} cannot be a member of a set")
