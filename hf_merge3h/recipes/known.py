"""What a recipe's reader has to know of the methods, known without importing them: with them comes torch, which takes
seconds, and a slip of the pen in a recipe should be told at once.

`known.json` beside this file has it; `python -m hf_merge3h.recipes.json_schema` writes it, and a test holds it to the
registry. Where any method is imported (a user's own, for example) the registry itself is asked.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import registry
from ..registry import Method
from ..schema import Parameter, Range

KNOWN = Path(__file__).with_name("known.json")

_PLAIN = (
    "name",
    "title",
    "paper",
    "family",
    "space",
    "weight_form",
    "matrix_only",
    "weighted",
    "unit_weights",
    "random",
)
_TYPES = {each.__name__: each for each in (bool, int, float, str)}


class Elsewhere:
    """A method's function, which is imported when it is called."""

    def __init__(self, name: str, summary: str) -> None:
        self.name = name
        self.__doc__ = summary

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call it."""
        return registry.get_method(self.name).function(*arguments, **options)


def records() -> tuple[Method, ...]:
    """All methods, in the registry's order; what they compute, and how, only if they are imported already."""
    return registry.list_methods() if registry.any_registered() else _known()


def known_text() -> str:
    """The file's text."""
    return json.dumps([_plain(each) for each in registry.list_methods()], indent=1, ensure_ascii=False) + "\n"


@functools.cache
def _known() -> tuple[Method, ...]:
    return tuple(_record(**each) for each in json.loads(KNOWN.read_text(encoding="utf-8")))


def _plain(method: Method) -> dict[str, Any]:
    return {
        **{name: getattr(method, name) for name in _PLAIN},
        "aliases": list(method.aliases),
        "experts": list(method.experts),
        "reconstruction": method.reconstruction,
        "summary": method.summary,
        "parameters": [_plain_parameter(each) for each in method.parameters],
    }


def _record(
    name: str, summary: str, aliases: list[str], experts: list[Any], parameters: list[dict[str, Any]], **facts: Any
) -> Method:
    function: Callable[..., Any] = Elsewhere(name, summary)
    return Method(
        name=name, function=function, aliases=tuple(aliases), experts=(experts[0], experts[1]),
        parameters=tuple(_parameter(**each) for each in parameters), **facts,
    )  # fmt: skip


def _plain_parameter(parameter: Parameter) -> dict[str, Any]:
    limits = parameter.range
    return {
        **vars(parameter),
        "type": parameter.type.__name__,
        "choices": list(parameter.choices),
        "range": limits and {key: value if math.isfinite(value) else None for key, value in vars(limits).items()},
    }


def _parameter(type: str, choices: list[str], range: dict[str, Any] | None, **facts: Any) -> Parameter:
    ends = {key: value for key, value in (range or {}).items() if value is not None}  # JSON has no infinity
    limits = None if range is None else Range(**ends)
    return Parameter(type=_TYPES[type], choices=tuple(choices), range=limits, **facts)
