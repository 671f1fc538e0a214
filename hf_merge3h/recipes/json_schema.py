"""The JSON schema of recipes, for editors that complete and check YAML: derived from the registry.

`python -m hf_merge3h.recipes.json_schema` writes `recipe.schema.json` beside this file (and `known.json`, see
`known.py`); a test holds both to the registry. An editor finds it by a comment in the recipe, which `init --editor`
writes:

    # yaml-language-server: $schema=file:///.../recipe.schema.json

Where a recipe's shape is told by the method (which parameters, and what they may be), `then` says it of each method by
itself: so editors offer the parameters of the method at hand, and no others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..registry import list_methods
from . import keys
from .chat import AUTO, NAMES
from .known import KNOWN, known_text
from .layers import MODULES
from .mergekit import Rules, method_names, rules_of
from .schema_values import Values

SCHEMA = Path(__file__).with_name("recipe.schema.json")

_PARAMETERS = {
    "type": ["object", "null"],
    "description": "The method's parameters; the nearest that say something count.",
}
_ROLES = ("helpfulness", "honesty", "harmlessness")
_TEXT = {"type": "string", "pattern": r"\S", "maxLength": 4096}


def json_schema() -> dict[str, Any]:
    """The schema, as plain data."""
    list_methods()  # from now on the registry itself is asked
    rules = [rules_of(name) for name in method_names()]
    values = Values()
    methods = [{"if": _says({"const": each.name}), "then": _per_method(each, values)} for each in rules]
    unsaid = {"if": _says({"enum": list(method_names())}), "else": _levels(_ref("parameters"), _ref("parameters"))}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of hf_merge3h",
        "description": "What to merge and how: mergekit's YAML schema, extended.",
        **_object(_top(rules), required=["merge_method"]),
        "oneOf": [{"required": [form]} for form in ("models", "slices", "modules", "adapters")],
        "dependentRequired": {"adapters": ["base_model"]},
        "allOf": [*methods, unsaid],
        "$defs": {"parameters": values.any_method(rules), **_definitions(), **values.definitions},
    }


def _says(method: dict[str, Any]) -> dict[str, Any]:
    return {"properties": {"merge_method": method}, "required": ["merge_method"]}


def _per_method(rules: Rules, values: Values) -> dict[str, Any]:
    """What depends on the method: its parameters, on each level, and whether it needs a base."""
    then = _levels(values.level(rules, of_one_model=False), values.level(rules, of_one_model=True))
    return {**then, "$ref": "#/$defs/on_a_base"} if rules.base in ("origin", "first") else then


def _levels(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Parameters that hold for all models, and those of one model, wherever a recipe may have them."""
    of_one = _inside(parameters=own)
    models = {"items": of_one}
    slices = {"items": _inside(parameters=shared, sources=models)}
    module = {"parameters": shared, "models": models, "slices": slices}
    adapters = {"items": of_one, "additionalProperties": of_one}
    return _inside(**module, adapters=adapters, modules={"additionalProperties": _inside(**module)})


def _inside(**keys: Any) -> dict[str, Any]:
    """More about keys that are described elsewhere: as patterns, or editors would offer them twice."""
    return {"patternProperties": {f"^{key}$": value for key, value in keys.items()}}


def _top(rules: list[Rules]) -> dict[str, Any]:
    described = [{"const": each.name, "description": each.summary} for each in rules]
    dtypes = [{"enum": [*keys.DTYPES, None]}, {"type": "string", "pattern": rf"^torch\.({'|'.join(keys.DTYPES)})$"}]
    role = {"anyOf": [{"enum": list(_ROLES)}, {**_TEXT, "maxLength": 100, "not": {"enum": ["base", "merged"]}}]}
    properties = {
        "merge_method": {"description": "The method.", "oneOf": described},
        "base_model": {
            "anyOf": [_ref("model"), {"type": "null"}],
            "description": "What task vectors are measured from.",
        },
        "models": {**_list("input"), "description": "The models to merge, whole."},
        "slices": {**_list("slice"), "description": "The output's layers, as ranges of the models' layers."},
        "modules": {
            "type": "object",
            "description": "Models or slices for each part of a model with several parts, by words in tensor names.",
            "minProperties": 1,
            "properties": {name: _ref("module") for name in MODULES},
            "additionalProperties": _ref("module"),
        },
        "parameters": _PARAMETERS,
        "dtype": {"anyOf": dtypes, "description": "Of storing. Computing is in float32 whatever it says."},
        "out_dtype": {"anyOf": dtypes, "description": "Of storing, where it is not dtype."},
        "tokenizer_source": {
            "anyOf": [{"enum": ["base", "union", None]}, _ref("model")],
            "description": "Whose tokenizer the output has: base, union, or a model.",
        },
        "tokenizer": _ref("tokenizer"),
        "chat_template": {
            "anyOf": [{"enum": [*NAMES, AUTO, None]}, {"type": "string", "pattern": r"^$|\{\{|\{%"}],
            "description": "The output's: by name, `auto` for the most common one of the models, or a Jinja template.",
        },
        "adapters": {
            "description": "PEFT adapters on base_model, each an expert; a list, or a mapping of roles.",
            "type": ["array", "object"],
            "items": _ref("adapter"),
            "minItems": 1,
            "properties": dict.fromkeys(_ROLES, _ref("adapter")),
            "additionalProperties": _ref("adapter"),
            "minProperties": 1,
        },
        "roles": {
            "description": "What the experts stand for: a list in their order, or a mapping of role to model.",
            "type": ["array", "object", "null"],
            "items": role,
            "uniqueItems": True,
            "properties": dict.fromkeys(_ROLES, _TEXT),
            "additionalProperties": _TEXT,
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
    revision = {"anyOf": [_TEXT, {"type": "null"}], "description": "A branch, tag or commit; text, so quote numbers."}
    place = _object({"path": {**_TEXT, "description": "A folder or a Hub id."}, "revision": revision}, ["path"])
    part = {"anyOf": [_TEXT, place]}
    long = {
        "model": {**part, "description": "A folder or a Hub id."},
        "lora": {"anyOf": [*part["anyOf"], {"type": "null"}], "description": "A PEFT adapter applied to it."},
    }
    names = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}, {"type": "null"}]}
    beside = {**names, "description": "PEFT adapters that are applied to the model (ours)."}
    one = {"model": _ref("model"), "adapters": beside, "parameters": _PARAMETERS}
    layers = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": 100_000},
        "minItems": 2,
        "maxItems": 2,
        "description": "[first, last + 1]: which of the model's layers.",
    }
    adapter = {
        "anyOf": names["anyOf"][:2],
        "description": "A PEFT adapter (folder or Hub id), or several, one on another.",
    }
    return {
        "on_a_base": {"required": ["base_model"], **_inside(base_model={"type": ["string", "object"]})},
        "model": {
            "description": "A folder or a Hub id: model, model@revision, model+adapter.",
            "anyOf": [_TEXT, _object(long, ["model"])],
        },
        "input": {"anyOf": [_TEXT, _object(one, ["model"])]},
        "adapter": {"anyOf": [_TEXT, _object({"adapter": adapter, "parameters": _PARAMETERS}, ["adapter"])]},
        "source": _object({**one, "layer_range": layers}, ["model", "layer_range"]),
        "slice": _object(
            {
                "sources": {**_list("source"), "description": "What goes in: the same number of layers of each."},
                "parameters": _PARAMETERS,
            },
            ["sources"],
        ),
        "module": {
            "description": "One part of the model.",
            **_object(
                {
                    "models": {**_list("input"), "description": "The models to merge, whole."},
                    "slices": {**_list("slice"), "description": "The part's layers, as ranges of the models' layers."},
                    "parameters": _PARAMETERS,
                }
            ),
            "oneOf": [{"required": ["models"]}, {"required": ["slices"]}],
        },
        "tokenizer": _tokenizer(),
    }


def _tokenizer() -> dict[str, Any]:
    kinds = ["zero", "model_token"]
    row = {
        "kind": {"enum": kinds, "description": "A row of zeros, or that of another token of a model."},
        "model": {**_ref("model"), "description": "Whose row."},
        "token": {"type": "string", "description": "The token, by its text."},
        "token_id": {"type": "integer", "minimum": 0, "description": "The token, by its number."},
    }
    other = {
        **_object(row, ["kind"]),
        "if": {"properties": {"kind": {"const": "zero"}}},
        "then": {"maxProperties": 1},
        "else": {"required": ["model"], "oneOf": [{"required": ["token"]}, {"required": ["token_id"]}]},
    }
    token = _object(
        {
            "source": {
                "anyOf": [_ref("model"), other, {"type": "null"}],
                "description": "A model, for its row of the token; or {kind: zero}, or {kind: model_token, ...}.",
            },
            "force": {"type": "boolean", "default": False, "description": "For models that have the token, too."},
        }
    )
    tokens = {
        "type": ["object", "null"],
        "description": "Where the rows of single tokens come from.",
        "additionalProperties": token,
    }
    source = {
        "anyOf": [{"enum": ["base", "union"]}, _ref("model")],
        "description": "Whose tokenizer the output has: base, union, or a model.",
    }
    multiple = {
        "type": ["integer", "null"],
        "minimum": 1,
        "description": "Pad the number of rows to a multiple of this.",
    }
    found = _object({"source": source, "tokens": tokens, "pad_to_multiple_of": multiple}, ["source"])
    return {**found, "type": ["object", "null"], "description": "The output's tokenizer, and where its rows come from."}


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
