"""The shipped JSON schema is the registry's, and `init` writes recipes that can be read."""

from __future__ import annotations

import json

import pytest

from hf_merge3h.errors import RequestError
from hf_merge3h.recipes.init import commented_recipe
from hf_merge3h.recipes.json_schema import SCHEMA, json_schema, schema_text
from hf_merge3h.recipes.mergekit import method_names, rules_of
from hf_merge3h.recipes.read import read_recipe


def test_the_shipped_schema_is_up_to_date():
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "run: python -m hf_merge3h.recipes.json_schema"


def test_references_lead_somewhere():
    schema = json_schema()

    def walk(node):
        if isinstance(node, dict):
            if "$ref" in node:
                assert node["$ref"].removeprefix("#/$defs/") in schema["$defs"]
            for each in node.values():
                walk(each)
        elif isinstance(node, list):
            for each in node:
                walk(each)

    walk(schema)
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == schema


@pytest.mark.parametrize("method", method_names())
def test_init_writes_a_recipe_for_every_method(method):
    rules = rules_of(method)
    number = 1 if rules.method is None or rules.base == "first" else max(1, rules.method.experts[0])
    base = "m/base" if rules.base in ("origin", "first") else None
    text = commented_recipe([f"m/x{n}" for n in range(number)], base, method)
    recipe = read_recipe(text)
    assert (recipe.method, recipe.warnings) == (method, ())
    # Every line that is commented out can be taken in.
    opened = "\n".join(line.replace("# ", "", 1) if _is_option(line, rules) else line for line in text.splitlines())
    assert read_recipe(opened).warnings == ()


def _is_option(line, rules):
    bare = line.strip().removeprefix("# ")
    spelt = {spelling for spellings in rules.spellings.values() for spelling in spellings} | {"parameters"}
    return line.strip().startswith("# ") and bare.split(":")[0] in spelt and ":" in bare


def test_init_takes_roles_and_odd_paths():
    text = commented_recipe({"helpfulness": "a b/c: #1", "honesty": "../x"}, "b", "ties")
    recipe = read_recipe(text)
    assert [(each.source, each.role) for each in recipe.models] == [
        ("a b/c: #1", "helpfulness"),
        ("../x", "honesty"),
        ("b", "base"),
    ]


@pytest.mark.parametrize(
    ("models", "base", "message"), [([], "b", "at least one"), (["a"], None, "base is not given: ties needs")]
)
def test_init_refuses(models, base, message):
    with pytest.raises(RequestError, match=message):
        commented_recipe(models, base, "ties")


@pytest.mark.parametrize("method", [name for name in method_names() if rules_of(name).base in ("origin", "maybe")])
def test_init_writes_recipes_of_adapters(method):
    low, high = rules_of(method).method.experts
    names = [f"lora{n}" for n in range(max(low, min(2, high or 2)))]
    text = commented_recipe(names, base="base", method=method, adapters=True)
    recipe = read_recipe(text)
    assert recipe.out == "adapter"
    assert [each.adapters for each in recipe.models if each.adapters] == [(name,) for name in names]
    with pytest.raises(RequestError, match="base is not given: adapters are merged on"):
        commented_recipe(names, base=None, method="linear", adapters=True)
    with pytest.raises(RequestError, match="a method of task vectors"):
        commented_recipe(names, base="base", method="slerp", adapters=True)
