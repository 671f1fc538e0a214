"""Settings: numbers that may change from layer to layer and from tensor to tensor.

A setting in a recipe is one value, a list of values along the layers, or conditions on tensor names with a value
each. What it means at one tensor is as in mergekit: numbers are interpolated linearly over the layers, other values
step; the first condition whose `filter` occurs in the name counts; where none does, the next level out is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import nearest
from .marks import Marked, Path

Scalar = bool | int | float | str
#: A checked setting: a scalar, a list of scalars along the layers, or conditions.
Setting = Any
Settings = Mapping[str, Setting]

MOST_NUMBER = 1e30  # beyond this float32 holds nothing


@dataclass(frozen=True)
class Condition:
    """A value for the tensors whose name contains `filter` (all of them for None or "*").

    `steps` lead from the parameter to the value, in the recipe.
    """

    filter: str | None
    value: Scalar | tuple[Scalar, ...]
    steps: Path = field(default=(), compare=False)

    def holds(self, name: str) -> bool:
        """Whether the condition is about a tensor."""
        return self.filter is None or self.filter == "*" or self.filter in name


def filters_of(given: Any) -> Iterator[str]:
    """All filters in a recipe's plain data, in order.

    >>> list(filters_of({"parameters": {"t": [{"filter": "mlp", "value": 0.5}, {"value": 1}]}}))
    ['mlp']
    """
    if isinstance(given, Mapping):
        if "value" in given and isinstance(given.get("filter"), str):
            yield given["filter"]
        given = list(given.values())
    if isinstance(given, Sequence) and not isinstance(given, str):
        for each in given:
            yield from filters_of(each)


def scalars_of(setting: Setting, path: Path) -> Iterator[tuple[Scalar, Path]]:
    """All values of a setting, each with where it stands.

    >>> list(scalars_of((Condition("mlp", 0.3, (0, "value")), Condition(None, 1, (1, "value"))), ("t",)))
    [(0.3, ('t', 0, 'value')), (1, ('t', 1, 'value'))]
    """
    if not isinstance(setting, tuple):
        yield setting, path
        return
    for index, each in enumerate(setting):
        if isinstance(each, Condition):
            yield from scalars_of(each.value, (*path, *each.steps))
        else:
            yield each, (*path, index)


def read_setting(value: Any, path: Path, text: Marked, problems: list[str]) -> Setting | None:
    """Check one setting; what is wrong goes to `problems`."""
    if isinstance(value, Mapping):
        value, single = [value], True
    else:
        single = False
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return _conditions(value, path, text, problems, single)
    return _plain(value, path, text, problems)


def _conditions(
    value: Sequence[Any], path: Path, text: Marked, problems: list[str], single: bool
) -> tuple[Condition, ...] | None:
    conditions = []
    for index, each in enumerate(value):
        here = path if single else (*path, index)
        if not isinstance(each, Mapping):
            problems.append(text.bad(here, each, "a mapping with value and filter, as its neighbours are"))
            return None
        if not {"value", "filter"} & set(each):
            remedy = "a value of one model stands under the `parameters` of that model"
            problems.append(text.bad(here, each, "{filter: part of a name, value: ...}", remedy))
            return None
        for key in each:
            if key not in ("value", "filter"):
                problems.append(text.say((*here, key), f"is unknown; {nearest(key, ('value', 'filter'))}"))
        if not isinstance(each.get("filter"), (str, type(None))):
            problems.append(text.bad((*here, "filter"), each["filter"], "text that occurs in names of tensors"))
            return None
        if "value" not in each:
            problems.append(text.say(here, "has no value"))
            return None
        found = _plain(each["value"], (*here, "value"), text, problems)
        if found is None:
            return None
        conditions.append(Condition(each.get("filter"), found, ("value",) if single else (index, "value")))
    return tuple(conditions)


def _plain(value: Any, path: Path, text: Marked, problems: list[str]) -> Setting | None:
    if isinstance(value, list):
        if not value:
            problems.append(text.bad(path, value, "a value, or values along the layers"))
            return None
        found = [_scalar(each, (*path, index), text, problems) for index, each in enumerate(value)]
        return None if any(each is None for each in found) else tuple(found)
    return _scalar(value, path, text, problems)


def _scalar(value: Any, path: Path, text: Marked, problems: list[str]) -> Scalar | None:
    if isinstance(value, str):
        try:
            value = float(value)  # YAML 1.1 reads 1e-5 as text
        except ValueError:
            return value
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and abs(value) <= MOST_NUMBER:  # false for NaN
        return value
    problems.append(text.bad(path, value, "a finite number, true or false, text, a list of these, or conditions"))
    return None


def evaluate(setting: Setting, name: str, t: float) -> Scalar | None:
    """What a setting says at a tensor, `t` of the way (0 to 1) through the layers; None where it says nothing.

    >>> evaluate((0, 1, 0.5), "w", 0.25), evaluate((True, False), "w", 0.9)
    (0.5, True)
    >>> evaluate((Condition("mlp", 0.3), Condition(None, (0, 1))), "attn.w", 0.5)
    0.5
    """
    found = _evaluate(setting, name, t)
    return None if found is None else found[0]


def _evaluate(setting: Setting, name: str, t: float) -> tuple[Scalar, Path] | None:
    """The value, and the steps that lead to it; of one between two values of a list, to the list."""
    if not isinstance(setting, tuple):
        return setting, ()
    if setting and isinstance(setting[0], Condition):
        for condition in setting:
            if condition.holds(name):
                value, steps = _evaluate(condition.value, name, t)  # type: ignore[misc]  # no conditions inside of one
                return value, (*condition.steps, *steps)
        return None
    place = t * (len(setting) - 1)
    low = int(place)
    share = place - low
    if not share or any(isinstance(each, (bool, str)) for each in setting):
        return setting[low], (low,)
    return (1 - share) * setting[low] + share * setting[low + 1], ()


@dataclass(frozen=True)
class Levels:
    """Settings from the nearest level to the farthest: model, slice, module, recipe; each with where it stands."""

    levels: tuple[tuple[Settings, Path], ...]

    def find(self, names: Sequence[str], tensor: str, t: float) -> Scalar | None:
        """The value of the first level that says something at a tensor; `names` are spellings of one parameter."""
        found = self.trace(names, tensor, t)
        return None if found is None else found[0]

    def trace(self, names: Sequence[str], tensor: str, t: float) -> tuple[Scalar, Path] | None:
        """The same value, and where the recipe says it."""
        for settings, path in self.levels:
            for spelling in names:
                if spelling in settings:
                    found = _evaluate(settings[spelling], tensor, t)
                    if found is not None:
                        return found[0], (*path, "parameters", spelling, *found[1])
        return None
