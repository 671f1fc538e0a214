"""The JSON schema of recipes, for editors that complete and check YAML: derived from the registry.

`python -m hf_merge3h.recipes.json_schema` writes `recipe.schema.json` beside this file (and `known.json`, see
`known.py`); a test holds both to the registry. An editor finds it by a comment in the recipe:

    # yaml-language-server: $schema=https://.../recipe.schema.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..registry import list_methods
from ..schema import Parameter
from . import keys
from .chat import AUTO, NAMES
from .known import KNOWN, known_text
from .mergekit import MERGEKIT_NAMES, Rules, method_names, rules_of

SCHEMA = Path(__file__).with_name("recipe.schema.json")

_FIRST = {"weight": "How much this model counts.", "int8_mask": "Accepted for mergekit's sake; it has no effect."}


def json_schema() -> dict[str, Any]:
    """The schema, as plain data."""
    list_methods()  # from now on the registry itself is asked
    rules = [rules_of(name) for name in method_names()]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of hf_merge3h",
        "description": "What to merge and how: mergekit's YAML schema, extended.",
        **_object(_top(rules), required=["merge_method"]),
        "oneOf": [{"required": [form]} for form in ("models", "slices", "modules", "adapters")],
        "allOf": [_per_method(each) for each in rules],
        "$defs": {"parameters": _parameters(rules), **_definitions()},
    }


def _top(rules: list[Rules]) -> dict[str, Any]:
    described = [{"const": each.name, "description": each.method.summary if each.method else "Copy."} for each in rules]
    properties = {
        "merge_method": {"description": "The method.", "oneOf": described},
        "base_model": {**_ref("model"), "description": "What task vectors are measured from."},
        "models": {**_list("input"), "description": "The models to merge, whole."},
        "slices": {**_list("slice"), "description": "The output's layers, as ranges of the models' layers."},
        "modules": {"type": "object", "minProperties": 1, "additionalProperties": _ref("module")},
        "parameters": _ref("parameters"),
        "dtype": {"enum": [*keys.DTYPES, None], "description": "Of computing and, without out_dtype, storing."},
        "out_dtype": {"enum": [*keys.DTYPES, None], "description": "Of storing."},
        "tokenizer_source": {**_ref("model"), "description": "base, union, or a model: whose tokenizer it is."},
        "tokenizer": _ref("tokenizer"),
        "chat_template": {
            "anyOf": [{"enum": [*NAMES, AUTO, None]}, {"type": "string"}],
            "description": "The output's: by name, `auto` for the most common one of the models, or a Jinja template.",
        },
        "adapters": {
            "description": "PEFT adapters on base_model, each an expert; a list, or a mapping of roles.",
            "anyOf": [_list("adapter"), {"type": "object", "additionalProperties": _ref("adapter")}],
        },
        "roles": {
            "description": "What the experts stand for: a list in their order, or a mapping of role to model.",
            "type": ["array", "object", "null"],
            "items": {"type": "string"},
            "additionalProperties": {"type": "string"},
        },
        "seed": {"type": "integer", "default": 0, "description": "Of random masks."},
        "out": {
            "enum": ["weights", "adapter"],
            "default": "weights",
            "description": "What comes out: whole weights, or, where all experts are adapters, an adapter.",
        },
    }
    assert tuple(sorted(properties)) == tuple(sorted(keys.TOP))
    return properties


def _definitions() -> dict[str, Any]:
    scalar: dict[str, Any] = {"type": ["number", "boolean", "string"]}
    value = {"anyOf": [scalar, {"type": "array", "items": scalar, "minItems": 1}]}
    condition = _object({"filter": {"type": ["string", "null"]}, "value": value}, required=["value"])
    place = _object({"path": {"type": "string"}, "revision": {"type": ["string", "null"]}}, required=["path"])
    part = {"anyOf": [{"type": "string"}, place]}
    names = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    own = {"parameters": _ref("parameters")}
    layers = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2}
    source = {"model": _ref("model"), "adapters": names, "layer_range": layers, **own}
    token = _object({"source": {"type": ["string", "object", "null"]}, "force": {"type": "boolean"}})
    return {
        "setting": {"anyOf": [*value["anyOf"], condition, {"type": "array", "items": condition, "minItems": 1}]},
        "model": {
            "description": "A folder or a Hub id: model, model@revision, model+adapter.",
            "anyOf": [{"type": "string"}, _object({"model": part, "lora": part}, required=["model"])],
        },
        "input": {
            "anyOf": [{"type": "string"}, _object({"model": _ref("model"), "adapters": names, **own}, ["model"])]
        },
        "adapter": {"anyOf": [{"type": "string"}, _object({"adapter": names, **own}, ["adapter"])]},
        "source": _object(source, ["model", "layer_range"]),
        "slice": _object({"sources": _list("source"), **own}, ["sources"]),
        "module": _object({"models": _list("input"), "slices": _list("slice"), **own}),
        "tokenizer": _object(
            {
                "source": _ref("model"),
                "tokens": {"type": "object", "additionalProperties": token},
                "pad_to_multiple_of": {"type": ["integer", "null"], "minimum": 1},
            },
            ["source"],
        ),
    }


def _parameters(rules: list[Rules]) -> dict[str, Any]:
    """All names that any method takes; which of them a method takes is said by method."""
    names: dict[str, list[str]] = {name: [text] for name, text in _FIRST.items()}
    for each in rules:
        for ours, spellings in each.spellings.items():
            parameter = _parameter(each, ours)
            text = f"{parameter.help} {_sentence(parameter.expected)}"
            for spelling in spellings:
                if text not in names.setdefault(spelling, []):
                    names[spelling].append(text)
    for name in sorted(MERGEKIT_NAMES - names.keys()):
        names[name] = ["Accepted for mergekit's sake."]
    settings = {name: {**_ref("setting"), "description": " / ".join(names[name])} for name in sorted(names)}
    return {**_object(settings), "type": ["object", "null"]}


def _per_method(rules: Rules) -> dict[str, Any]:
    """The names that may stand under the recipe's `parameters` with one method."""
    names = set(rules.accepted) | set(rules.no_effect) | (MERGEKIT_NAMES if rules.known else set())
    then: dict[str, Any] = {"properties": {"parameters": {"propertyNames": {"enum": sorted(names)}}}}
    if rules.base in ("origin", "first"):
        then["required"] = ["base_model"]
    return {"if": {"properties": {"merge_method": {"const": rules.name}}, "required": ["merge_method"]}, "then": then}


def _parameter(rules: Rules, ours: str) -> Parameter:
    return next(each for each in rules.parameters if each.name == ours)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    found = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": required} if required else found


def _list(name: str) -> dict[str, Any]:
    return {"type": "array", "items": _ref(name), "minItems": 1}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def schema_text() -> str:
    """The file's text."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    KNOWN.write_text(known_text(), encoding="utf-8")
