"""What a method's keyword-only arguments say about its parameters: the signature is the schema."""

from __future__ import annotations

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal

from .errors import bad, near, nearest

#: Keyword-only arguments that the engine supplies; they are no parameters of the user's.
SUPPLIED: Mapping[str, str] = types.MappingProxyType(
    {
        "base": "the base's tensors, float32 [batch, *shape]",
        "keys": "one 64-bit key a task and tensor, int64 [task, batch], for counter-based random masks",
        "statistics": "what the method's `prepare` pass found (see `Accumulator`), or None",
        "names": "the tensors' names, a tuple of batch strings",
        "noise": "singular values at or under this are storage noise of the weights, float32 [batch]",
    }
)


@dataclass(frozen=True)
class Range:
    """The numbers that a parameter admits: an interval, closed unless an end is said to be open."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below  # NaN is in no range: each comparison with it is false

    def __str__(self) -> str:
        left = "(" if self.low_open else "["
        right = ")" if self.high_open else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"


#: Any number but an infinite one.
FINITE = Range(low_open=True, high_open=True)


_GREATEST, _LEAST = 3.4028234663852886e38, 2.0**-126  # of float32: merging is done in it


class _PerExpert:
    """Marks a parameter that takes one number, or one for each expert."""

    def __repr__(self) -> str:
        return "PerExpert"


PerExpert = _PerExpert()


@dataclass(frozen=True)
class Parameter:
    """One entry of a method's schema."""

    name: str
    type: type
    default: Any
    range: Range | None = None
    choices: tuple[str, ...] = ()
    per_expert: bool = False
    optional: bool = False
    help: str = ""

    @property
    def expected(self) -> str:
        """What the parameter takes, in words for help texts and errors."""
        if self.choices:
            text = "one of " + ", ".join(self.choices)
        elif self.type is bool:
            text = "True or False"
        else:
            noun = "an integer" if self.type is int else "a finite number" if self.range == FINITE else "a number"
            bounded = self.range and not (math.isinf(self.range.low) and math.isinf(self.range.high))
            text = f"{noun} in {self.range}" if bounded else noun
        if self.per_expert:
            text += ", or one for each expert"
        return text + (", or None" if self.optional else "")

    def check(self, value: Any, n_experts: int | None = None) -> Any:
        """The value as the method receives it, or a RequestError that says what is wrong with it."""
        if value is None and self.optional:
            return None
        if self.per_expert and _is_sequence(value):
            values = tuple(value)
            if n_experts is not None and len(values) != n_experts:
                raise bad(self.name, values, f"one number for each of the {n_experts} experts", "or a single number")
            return tuple(self._check_one(each) for each in values)
        return self._check_one(value)

    def _check_one(self, value: Any) -> Any:
        if self.choices:
            if not isinstance(value, str) or value not in self.choices:
                hint = nearest(str(value), self.choices) if near(str(value), self.choices) else ""
                raise bad(self.name, value, self.expected, hint)
            return value
        value = given = plain(value)
        if self.type is bool:
            if not isinstance(value, bool):
                raise bad(self.name, value, self.expected)
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise bad(self.name, value, self.expected)
        if self.type is int:
            if not math.isfinite(value) or int(value) != value:
                raise bad(self.name, value, self.expected)
            value = int(value)
        else:
            try:
                value = float(value)
            except OverflowError:  # an integer of more than 308 digits
                raise bad(self.name, value, self.expected) from None
        if math.isnan(value) or (self.range is not None and value not in self.range):
            raise bad(self.name, given, self.expected)
        return value


def plain(value: Any) -> Any:
    """A Python number for a number that numpy or torch holds (a scalar, or an array of one element)."""
    size = getattr(value, "size", None)  # numpy's number of elements; torch's is a method
    count = value.numel() if hasattr(value, "numel") else size
    return value.item() if hasattr(value, "item") and count == 1 else value


def read_weights(weights: Any, n_experts: int) -> tuple[float, ...]:
    """One finite number for each expert, not all of them zero.

    Raises:
        RequestError: it is something else.
    """
    expected = f"{n_experts} numbers, one for each expert"
    if not _is_sequence(weights):
        raise bad("weights", weights, expected, "or leave weights out")
    values = tuple(_weight(weight) for weight in weights)
    if len(values) != n_experts:
        raise bad("weights", list(weights), expected, "or leave weights out")
    if not all(abs(value) <= _GREATEST for value in values):
        raise bad("weights", list(values), "finite numbers, no greater than float32's greatest")
    if not any(abs(value) >= _LEAST for value in values):
        raise bad("weights", list(values), "at least one weight that is not zero")
    return values


def _weight(weight: Any) -> float:
    weight = plain(weight)
    if isinstance(weight, bool) or not (isinstance(weight, (int, float)) or hasattr(weight, "__float__")):
        raise bad("weights", weight, "numbers")
    try:
        return float(weight)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf
    except (TypeError, ValueError, RuntimeError):  # an array of several
        raise bad("weights", weight, "numbers, one for each expert") from None


def _is_sequence(value: Any) -> bool:
    """Whether a value holds several in an order: a list, a tuple, or an array with at least one dimension."""
    if isinstance(value, (str, bytes, Mapping, Set)):
        return False
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0


def read_schema(function: Callable[..., Any]) -> tuple[tuple[Parameter, ...], frozenset[str]]:
    """Read a function's keyword-only arguments: the user's parameters, and what the engine must supply."""
    hints = typing.get_type_hints(function, include_extras=True)
    helps = _argument_docs(inspect.getdoc(function) or "")
    parameters, needs = [], set()
    for argument in inspect.signature(function).parameters.values():
        if argument.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if argument.name in SUPPLIED:
            needs.add(argument.name)
            continue
        parameters.append(_parameter(argument, hints[argument.name], helps.get(argument.name, "")))
    return tuple(parameters), frozenset(needs)


def _parameter(argument: inspect.Parameter, hint: Any, help_text: str) -> Parameter:
    if argument.default is inspect.Parameter.empty:
        raise ValueError(f"parameter {argument.name!r} needs a default")
    extras: tuple[Any, ...] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *rest = typing.get_args(hint)
        extras = tuple(rest)
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    literals = [member for member in members if typing.get_origin(member) is Literal]
    plain = [member for member in members if member in (bool, int, float)]
    if not literals and not plain:
        raise ValueError(f"parameter {argument.name!r}: no schema can be read from {hint!r}")
    return Parameter(
        name=argument.name,
        type=str if literals else plain[0],
        default=argument.default,
        range=next((extra for extra in extras if isinstance(extra, Range)), None),
        choices=typing.get_args(literals[0]) if literals else (),
        per_expert=any(isinstance(extra, _PerExpert) for extra in extras),
        optional=type(None) in members,
        help=help_text,
    )


def _argument_docs(doc: str) -> dict[str, str]:
    """The entries of a Google-style `Args:` section, each on one line."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", doc, re.MULTILINE)
    if not section:
        return {}
    entries = re.findall(r"^    (\w+)(?: \(.*?\))?: (.*(?:\n {5,}.*)*)", section.group(1), re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).strip() for name, text in entries}
