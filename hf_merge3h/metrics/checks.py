"""What every metric asks of its input; each error names the first item that is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import bad

Items = list[dict[str, Any]]


def as_list(argument: str, values: Any, expected: str) -> list[Any]:
    """The values as a list.

    Raises:
        RequestError: no sequence, or an empty one.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise bad(argument, values, f"a list: {expected}")
    listed = list(values)
    if not listed:
        raise bad(argument, listed, f"at least one item: {expected}", "no answers have no score")
    return listed


def pair(predictions: Any, references: Any, prediction: str, reference: str) -> tuple[list[Any], list[Any]]:
    """Both as lists of one length.

    Raises:
        RequestError: one is missing or empty, or their lengths differ.
    """
    if references is None:
        raise bad("references", None, f"a list with one item for each prediction: {reference}")
    left = as_list("predictions", predictions, prediction)
    right = as_list("references", references, reference)
    if len(left) != len(right):
        raise bad("references", f"{len(right)} items", f"as many as predictions: {len(left)}")
    return left, right


def texts(argument: str, values: Sequence[Any], remedy: str = 'where a model said nothing, pass ""') -> list[str]:
    """The values, if all of them are strings.

    Raises:
        RequestError: names the first that is not.
    """
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise bad(f"{argument}[{index}]", value, "a string", remedy)
    return list(values)


def each(argument: str, values: Sequence[Any], accept: Callable[[Any], bool], expected: str) -> None:
    """Refuse the first value that is not acceptable."""
    for index, value in enumerate(values):
        if not accept(value):
            raise bad(f"{argument}[{index}]", value, expected)


def positive(argument: str, value: Any) -> float:
    """A finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise bad(argument, value, "a number above 0")
    return float(value)


def mean(values: Iterable[Any]) -> float:
    """Mean of numbers or truth values; of nothing there is none, and callers make sure that there is something.

    >>> mean([True, False, True, True])
    0.75
    """
    listed = [float(value) for value in values]
    return math.fsum(listed) / len(listed)
