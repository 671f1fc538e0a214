"""The shipped JSON schema is the registry's, and `init` writes recipes that can be read."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from hf_merge3h.errors import RequestError
from hf_merge3h.recipes.init import commented_recipe
from hf_merge3h.recipes.json_schema import SCHEMA, json_schema, schema_text
from hf_merge3h.recipes.mergekit import method_names, rules_of
from hf_merge3h.recipes.read import read_recipe
from tests.markdown import ROOT, blocks, documents

from .cases import CASES
from .test_forms import SHAPES
from .test_fuzz import Names, mutated
from .test_read import GOOD

CHECK = jsonschema.Draft202012Validator(json_schema())
DOCUMENTED = [block for name in documents() for block in blocks(name) if block.language == "yaml"]
RECIPES = {
    **{name: text.format_map(Names()) for name, text in CASES.items()},
    **{block.label: block.code for block in DOCUMENTED if "merge_method" in block.code},
    **{path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "spaces_app/examples").glob("*.yaml"))},
}


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


def test_init_tells_editors_where_the_schema_lies():
    first, rest = commented_recipe(["x"], "b", "ties", editor=True).split("\n", 1)
    assert first == f"# yaml-language-server: $schema={SCHEMA.as_uri()}"
    assert rest == commented_recipe(["x"], "b", "ties")
    assert "one for each expert" not in rest
    assert "(true or false)" in rest


@pytest.mark.parametrize(
    ("models", "base", "method", "message"),
    [
        ([], "b", "ties", "at least one"),
        (["a"], None, "ties", "base is not given: ties needs"),
        (["a", "a"], "b", "ties", r"models=\['a', 'a'\]: expected different ones; give each once"),
        (["a", "b"], "c", "slerp", "3 given, but method 'slerp' merges exactly 2; the base counts as one of them"),
        (["a", "b"], "c", "nearswap", "2 given, but method 'nearswap' merges exactly 1"),
    ],
)
def test_init_refuses(models, base, method, message):
    with pytest.raises(RequestError, match=message):
        commented_recipe(models, base, method)


@pytest.mark.parametrize("method", [name for name in method_names() if rules_of(name).base == "model"])
def test_init_gives_no_base_to_methods_that_would_merge_it(method):
    recipe = read_recipe(commented_recipe(["a", "yes", "null"], "base", method))
    merged = [each.source for each in recipe.models if each.role != "base"]
    assert merged == ["a", "yes", "null"]
    assert (recipe.base is None) == rules_of(method).base_added


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


def marked(data):
    """What an editor marks."""
    problem = jsonschema.exceptions.best_match(CHECK.iter_errors(data))
    return problem and f"{problem.json_path}: {problem.message}"


def refused(data):
    """What our reader says."""
    try:
        recipe = read_recipe(data)
        recipe.jobs([SHAPES] * len(recipe.models), [3] * len(recipe.models))
    except RequestError as error:
        return str(error)


@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES)
def test_no_recipe_that_is_read_is_marked(text):
    assert marked(yaml.safe_load(text)) is None


def test_the_documents_have_recipes():
    assert {"RECIPES.md", "demo.yaml"} <= {name.partition(":")[0] for name in RECIPES}


@pytest.mark.parametrize(
    "text",
    [
        *("modls: 3", "density: 0.5", "slices: []", "seed: true", "seed: 1.5", "out: both", "dtype: bf17"),
        *("roles: [base, x]", "roles: [x, x]", "roles: {harmlessness: [x]}", "chat_template: chatmi"),
        *("tokenizer: union", "tokenizer: {tokens: {}}", "tokenizer: {source: base, pad_to_multiple_of: 0}"),
        *(
            f"tokenizer: {{source: base, tokens: {{a: {token}}}}}"
            for token in (
                *("{force: 1}", "{source: {kind: one}}", "{source: {kind: zero, model: x}}", "{sorce: x}"),
                *("{source: {kind: model_token, model: x}}", "{source: {kind: model_token, token: t}}"),
                "{source: {kind: model_token, model: x, token: t, token_id: 1}}",
            )
        ),
        *(
            f"parameters: {{{given}}}"
            for given in (
                *("densty: 0.5", "density: 1.5", "density: [0.5, 2]", "density: much", "density: {value: -1}"),
                *("density: [{filter: mlp, value: 0.5}, {filter: 3, value: 1}]", "density: [{filter: mlp}]"),
                *(
                    "density: []",
                    "density: true",
                    "density: null",
                    "normalize: 3",
                    "normalize: never",
                    "election: sums",
                ),
                *("rescale: 2", "kappa: 3", "weight: .inf", "lambda: [1, x]", "density: [{value: 1, filtr: x}]"),
            )
        ),
    ],
)
def test_what_the_reader_refuses_is_marked(text):
    data = yaml.safe_load(GOOD + text)
    assert (marked(data) is None, refused(data) is None) == (False, False), (marked(data), refused(data))


@pytest.mark.parametrize(
    "text",
    [
        "merge_method: tie\nmodels: [x]",
        "merge_method: ties\nmodels: [x]",
        "merge_method: ties\nbase_model: null\nmodels: [x]",
        "merge_method: linear\nadapters: [x]",
        "merge_method: linear\nmodels: [{modl: x}]",
        "merge_method: linear\nmodels: [{model: x, weight: 1}]",
        "merge_method: linear\nmodels: [{model: {model: {path: x, revision: 12}}}]",
        "merge_method: passthrough\nslices: [{sources: [{model: x}]}]",
        "merge_method: passthrough\nslices: [{sources: [{model: x, layer_range: [0]}]}]",
        "merge_method: passthrough\nslices: [{sources: [{model: x, layer_range: [0, 1], parameters: {scle: 1}}]}]",
        "merge_method: linear\nslices: [{sources: [{model: x, layer_range: [0, 1]}], residual_weight: 1}]",
        "merge_method: linear\nmodules: {}",
        "merge_method: linear\nmodules: {a: {parameters: {}}}",
        "merge_method: linear\nmodules: {a: {models: [{model: x, parameters: {wieght: 1}}]}}",
        "merge_method: r_tsvm\nbase_model: b\nadapters: {helpfulness: {adapter: x, parameters: {density: 1}}}",
        "merge_method: karcher\nmodels: [x, y]\nparameters: {max_iter: 1.5}",
    ],
)
def test_what_the_reader_refuses_of_other_recipes_is_marked(text):
    data = yaml.safe_load(text)
    assert (marked(data) is None, refused(data) is None) == (False, False), (marked(data), refused(data))


def test_what_only_warns_is_not_marked():
    for text in ("t: 1", "int8_mask: true", "rescale: true", "scale: 2", "density: 0", "density: '1e-1'"):
        assert marked(yaml.safe_load(GOOD + f"parameters: {{{text}}}")) is None, text
    assert marked(yaml.safe_load(GOOD + "    parameters: {normalize: true, t: 1}")) is None


#: What a schema cannot see: things that depend on one another, and characters that cannot be printed.
UNSEEN = (
    "is a model that is listed twice", "different lengths", "needs `t` under", "has no weight", "the second is greater",
    "words, one for each expert", "different roles", "one of the recipe's models", "cannot be merged: experts",
    "where tensors are flattened", "two names of one parameter", "more experts than there are", "weights=",
    "a folder or a Hub id", "that of every model is 0", "a Jinja template, and this is none",
)  # fmt: skip


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_schema_and_reader_agree_on_recipes_that_chance_has_changed(data):
    said, shown = refused(data), marked(data)
    if said is not None and shown is None:
        assert any(each in said for each in UNSEEN), said
    if said is None and shown is not None:
        # The reader takes true for 1, leaves out what is null, and never sees a value that no tensor has.
        assert re.search(r"True|False|true|None|null|filter|normalize", shown + json.dumps(data)), shown


@pytest.mark.parametrize("method", method_names())
def test_editors_offer_what_the_method_takes_and_nothing_else(method):
    rules, defined = rules_of(method), json_schema()["$defs"]
    offered, own = defined[method]["properties"], defined[f"{method}_of_one"]["properties"]
    assert set(offered) == set(rules.accepted)
    of_one = {spelling for ours in rules.per_model for spelling in rules.spellings[ours]}
    assert set(own) == of_one | ({"weight"} if rules.weighted else set())
    for each in (*offered.values(), *own.values()):
        assert each["description"].endswith(".")
        assert not re.search("one for each expert|or False|None", each["description"])
        assert each["$ref"].removeprefix("#/$defs/") in defined


def test_every_key_is_described():
    schema, silent = json_schema(), []

    def walk(node, path):
        if isinstance(node, dict):
            for key, value in node.get("properties", {}).items() if "/if" not in path else ():
                target = schema["$defs"].get(value.get("$ref", "").rpartition("/")[2], {})
                if "description" not in value and "description" not in target and not path.startswith("/properties/"):
                    silent.append(f"{path}/{key}")
            for key, value in node.items():
                walk(value, f"{path}/{key}")
        elif isinstance(node, list):
            for index, value in enumerate(node):
                walk(value, f"{path}/{index}")

    walk(schema, "")
    assert silent == []
