"""What stands under `parameters`, as the recipes' JSON schema says it: by method, with the values that each takes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from ..errors import in_yaml
from ..schema import FINITE, Parameter
from .mergekit import MERGEKIT_NAMES, Rules, as_ours, in_a_recipe, takes_flag
from .parameters import MOST_NUMBER

_NO_EFFECT = "It has no effect here (in mergekit neither)."  # some editors show it beside what they find
_WEIGHT = Parameter("weight", float, 1.0, FINITE, per_expert=True, help="How much this model counts.")
#: YAML 1.1 reads 1e-5 as text, and so do some editors.
_NUMBER_AS_TEXT = {"type": "string", "pattern": r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$"}
#: A word or a flag, as 0 and 1 are taken too. No `enum`, so that editors offer true and false alone.
_FLAG = {"type": ["boolean", "integer"], "minimum": 0, "maximum": 1}
FILTER = {
    "type": ["string", "null"],
    "description": "Text that occurs in the names of the tensors that this is about; left out or '*', all the others.",
}


class Values:
    """The definitions that settings refer to, each once: what a parameter may be, everywhere it may stand."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}

    def level(self, rules: Rules, *, of_one_model: bool) -> dict[str, Any]:
        """One level's `parameters`: what counts there is offered; what the reader only warns of is let be."""
        own = {spelling for ours in rules.per_model for spelling in rules.spellings[ours]}
        offered = {
            spelling: self._setting(rules, parameter)
            for parameter in rules.parameters
            for spelling in rules.spellings[parameter.name]
            if spelling in own or not of_one_model
        }
        if rules.weighted:
            offered = {"weight": self._setting(rules, _WEIGHT), **offered}
        warned = {*rules.accepted, *(MERGEKIT_NAMES if rules.known else ())} - set(rules.no_effect)
        name = f"{rules.name}_of_one" if of_one_model else rules.name
        self.definitions[name] = _mapping(offered, warned, rules.no_effect)
        return {"$ref": f"#/$defs/{name}"}

    def any_method(self, every: Iterable[Rules]) -> dict[str, Any]:
        """The same where it is not said yet which method it is: all names that any takes."""
        helps: dict[str, list[str]] = {"weight": [_description(_WEIGHT)]}
        for rules in every:
            for parameter in rules.parameters:
                for spelling in rules.spellings[parameter.name]:
                    text = _description(in_a_recipe(rules, parameter))
                    if text not in helps.setdefault(spelling, []):
                        helps[spelling].append(text)
        value = self._define("anything", {"type": ["number", "boolean", "string"]})
        return _mapping(
            {name: {**value, "description": " / ".join(texts)} for name, texts in sorted(helps.items())},
            (),
            MERGEKIT_NAMES - helps.keys(),
        )

    def _setting(self, rules: Rules, parameter: Parameter) -> dict[str, Any]:
        parameter = in_a_recipe(rules, parameter)
        found = {**self._define(_name(parameter), _value(parameter)), "description": _description(parameter)}
        if parameter.name in rules.required or parameter.name == "weight":
            return found
        default = rules.defaults.get(parameter.name, parameter.default)
        return {**found, "default": as_ours(rules, parameter.name, default)}

    def _define(self, name: str, value: dict[str, Any]) -> dict[str, Any]:
        """A setting of such values: one, a list of them along the layers, or conditions on names with either."""
        along = {"type": "array", "items": value, "minItems": 1, "description": "Values along the layers."}
        condition = {
            "type": "object",
            "properties": {
                "filter": FILTER,
                "value": {"anyOf": [value, along], "description": "A value, or a list of them along the layers."},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
        conditions = {"type": "array", "items": condition, "minItems": 1, "description": "The first that holds counts."}
        self.definitions[name] = {"anyOf": [value, along, conditions, condition]}
        return {"$ref": f"#/$defs/{name}"}


def _mapping(offered: dict[str, Any], warned: Iterable[str], silent: Iterable[str] = ()) -> dict[str, Any]:
    """A mapping of parameters: the first names are offered; the others, which are taken too, are patterns."""
    patterns = {
        f"^({'|'.join(sorted(names))})$": told
        for names, told in (
            (set(warned) - offered.keys(), {"deprecationMessage": _NO_EFFECT}),
            (set(silent), {}),
        )
        if names
    }
    extra = {"patternProperties": patterns} if patterns else {}
    return {"type": ["object", "null"], "properties": offered, **extra, "additionalProperties": False}


def _description(parameter: Parameter) -> str:
    """What it is and takes; in words that hold in a recipe, where a list runs along the layers."""
    words = [parameter.help, expected_in_recipe(parameter)]
    words += ["each model may have its own"] if parameter.per_expert else []
    return " ".join(f"{each[:1].upper()}{each[1:].rstrip('.')}." for each in words)


def expected_in_recipe(parameter: Parameter) -> str:
    """What a recipe may say for a parameter.

    >>> expected_in_recipe(Parameter("rescale", str, "none", choices=("l1", "none")))
    'one of l1, none; true is l1, and false is none'
    """
    text = in_yaml(dataclasses.replace(parameter, per_expert=False).expected)
    return text + ("; true is l1, and false is none" if takes_flag(parameter) else "")


def _value(parameter: Parameter) -> dict[str, Any]:
    """One value."""
    if parameter.choices:
        words: dict[str, Any] = {"enum": list(parameter.choices)}
        return {"anyOf": [words, _FLAG]} if takes_flag(parameter) else words
    if parameter.type is bool:
        return dict(_FLAG)
    limits = parameter.range or FINITE
    low, high = max(limits.low, -MOST_NUMBER), min(limits.high, MOST_NUMBER)
    bounds = {
        "exclusiveMinimum" if limits.low_open and low == limits.low else "minimum": low,
        "exclusiveMaximum" if limits.high_open and high == limits.high else "maximum": high,
    }
    return {"anyOf": [{"type": "integer" if parameter.type is int else "number", **bounds}, _NUMBER_AS_TEXT]}


def _name(parameter: Parameter) -> str:
    """A definition's name: by what is taken, for many parameters take the same.

    >>> _name(Parameter("kappa", float, 3.0, FINITE))
    'a_finite_number'
    """
    text = in_yaml(dataclasses.replace(parameter, per_expert=False).expected)
    text = text.replace("(", "above_").replace(")", "_below").replace(", ", "_to_" if parameter.range else "_or_")
    text += "_or_flag" if takes_flag(parameter) else ""
    return re.sub(r"[^a-z0-9.]+", "_", text.lower()).strip("_")
