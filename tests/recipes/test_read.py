"""Reading recipes: what is taken, what is refused and how it is said."""

from __future__ import annotations

import json
import os
import sys

import pytest
import yaml

from hf_merge3h.errors import RequestError, SourceError, wrong
from hf_merge3h.recipes.read import read_recipe

GOOD = "merge_method: ties\nbase_model: b\nmodels:\n  - model: x\n  - model: y\n"


def said(text, label=None):
    with pytest.raises(RequestError) as caught:
        read_recipe(text, label)
    return str(caught.value)


def test_a_file_a_text_and_a_dict_say_the_same(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(GOOD)
    found = [read_recipe(each) for each in (path, str(path), GOOD, yaml.safe_load(GOOD))]
    assert {each.models for each in found} == {found[0].models}
    assert [each.label for each in found] == ["r.yaml", "r.yaml", "recipe", "recipe"]
    assert found[0].given == yaml.safe_load(GOOD)
    assert found[0].base == 2


def test_references():
    text = """
merge_method: linear
models:
  - model: a/b@main+c/d@r1
  - model: {model: {path: e, revision: v2}, lora: {path: f}}
  - model: /abs/olute
    adapters: [g, h]
"""
    models = read_recipe(text).models
    assert [(each.source, each.adapters) for each in models] == [
        ("a/b@main", ("c/d@r1",)),
        ("e@v2", ("f",)),
        ("/abs/olute", ("g", "h")),
    ]
    assert models[0].given == "a/b@main+c/d@r1"
    assert [each.role for each in models] == ["expert_1", "expert_2", "expert_3"]


def test_our_adapters_are_experts_on_the_base():
    text = """
merge_method: r_tsvm
base_model: b
adapters:
  helpfulness: x
  honesty: {adapter: y, parameters: {weight: 0.5}}
out: adapter
seed: 7
"""
    recipe = read_recipe(text)
    assert [(each.source, each.adapters, each.role) for each in recipe.models] == [
        ("b", ("x",), "helpfulness"),
        ("b", ("y",), "honesty"),
        ("b", (), "base"),
    ]
    assert (recipe.base, recipe.out, recipe.seed) == (2, "adapter", 7)
    job = recipe.jobs([{"w": (2,)}] * 3, [None] * 3)[0]
    assert (job.weights, job.base) == ((1.0, 0.5), (2, "w"))


def test_roles():
    recipe = read_recipe(GOOD + "roles: [helpfulness, honesty]")
    assert [each.role for each in recipe.models] == ["helpfulness", "honesty", "base"]
    recipe = read_recipe(GOOD + "roles: {harmlessness: y}")
    assert [each.role for each in recipe.models] == ["expert_1", "harmlessness", "base"]
    assert "2 words, one for each expert" in said(GOOD + "roles: [one]")
    assert "did you mean" in said(GOOD + "roles: {harmlessness: yy}") or "choose from" in said(GOOD + "roles: {q: zz}")


def test_values_that_no_tensor_may_have_are_told_in_yaml():
    for value, message in [
        ("normalize: 3", "parameters.normalize=3: expected true or false"),
        ("density: true", "parameters.density=true: expected a number in (0, 1]"),
        ("normalize: 'None'", "parameters.normalize='None': expected true or false"),
    ]:
        recipe = read_recipe(GOOD + f"parameters: {{{value}}}")
        with pytest.raises(RequestError) as caught:
            recipe.jobs([{"w": (2,)}] * 3, [None] * 3)
        assert f"recipe:6: {message}" in str(caught.value)


def test_tokenizers():
    assert read_recipe(GOOD + "tokenizer_source: union").tokenizer["source"] == "union"
    assert read_recipe(GOOD + "tokenizer_source: y").tokenizer["source"] == 1
    other = read_recipe(GOOD + "tokenizer_source: z\nroles: [helpfulness, honesty]")
    assert (other.tokenizer["source"], other.models[3].source, other.models[3].role) == (3, "z", "")
    text = """
tokenizer:
  source: base
  pad_to_multiple_of: 8
  tokens:
    <a>: {source: {kind: zero}}
    <b>: {source: {kind: model_token, model: x, token: <c>}, force: true}
    <d>: {source: y}
    <e>: {source: {model: {path: y}}}
"""
    assert read_recipe(GOOD + text).tokenizer == {
        "source": "base",
        "pad_to_multiple_of": 8,
        "tokens": {
            "<a>": {"source": {"kind": "zero"}, "force": False},
            "<b>": {"source": {"kind": "model_token", "model": 0, "token": "<c>"}, "force": True},
            "<d>": {"source": {"kind": "model", "model": 1}, "force": False},
            "<e>": {"source": {"kind": "model", "model": 1}, "force": False},
        },
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b", "recipe:1: a recipe is a mapping with merge_method and models, not ['a', 'b']"),
        ("", "a recipe is a mapping"),
        ("models: [x]\n", "has no merge_method"),
        ("merge_method: tie\nmodels: [x]", "recipe:1: merge_method='tie': expected the name of a method; did you mean"),
        (GOOD + "modls: 3", "recipe:6: modls is unknown; did you mean 'models'"),
        (GOOD + "density: 0.5", "recipe:6: density is a parameter: put it under `parameters`"),
        (GOOD + "densty: 0.5", "recipe:6: densty is unknown; density is a parameter, if that is meant: put it under"),
        (GOOD + "t: 0.5", "recipe:6: t is a parameter: put it under `parameters`"),
        (GOOD + "    weight: 1", "recipe:6: models[1].weight is a parameter: put it under `parameters`"),
        (GOOD + "    wieght: 1", "recipe:6: models[1].wieght is unknown; weight is a parameter, if that is meant: put"),
        (GOOD.replace("ties", "consensus_ta") + "mask_lamda: 1", "mask_lambda is a parameter, if that is meant: put"),
        ("merge_method: tie\nmodels: [x]\ndensity: 1", "recipe:3: density is a parameter: put it under `parameters`"),
        (GOOD + "slices: []", "this one has models and slices"),
        ("merge_method: ties\nbase_model: b", "this one has none"),
        ("merge_method: ties\nmodels: [x]", "merge_method ties needs a base_model"),
        (GOOD + "dtype: bf17", "recipe:6: dtype='bf17': expected float32, bfloat16"),
        (GOOD + "seed: x", "recipe:6: seed='x': expected an integer"),
        (
            "merge_method: linear\nmodels: [{model: {model: {path: m, revision: 1234567}}}]",
            "models[0].model.model.revision=1234567: expected a branch, tag or commit; quote one of digits",
        ),
        (
            GOOD + "parameters:\n  lambda: 1\n  scale: 2",
            "recipe:7: parameters.lambda and scale (recipe:8) are two names of one parameter; keep one",
        ),
        (GOOD + "seed: true", "recipe:6: seed=true: expected an integer"),
        (GOOD + "out: null", "recipe:6: out=null: expected weights or adapter"),
        (GOOD + "dtype: [no, 'False']", "recipe:6: dtype=[false, 'False']: expected float32"),
        (GOOD.replace("x", "~"), "recipe:4: models[0].model=null: expected a folder or a Hub id"),
        ("merge_method: r_tsvm\nbase_model: b\nmodels: [x]\nparameters: {kappa: .inf}\n", "kappa=.inf: expected a"),
        (GOOD + "out: both", "out='both': expected weights or adapter"),
        (GOOD + "chat_template: chatmi", "recipe:6: chat_template='chatmi': expected a Jinja template, or a name; did"),
        (GOOD + "chat_template: '{{ 1 +'", "recipe:6: chat_template='{{ 1 +': expected a Jinja template, and this"),
        (GOOD + "base_model: c", "recipe:6: base_model stands twice"),
        (GOOD + "parameters: {weight: .nan}", "parameters.weight=.nan: expected a finite number"),
        (GOOD + "parameters: {weight: []}", "parameters.weight=[]: expected a value"),
        (GOOD + "parameters: {weight: [{filter: a}]}", "parameters.weight[0] has no value"),
        (GOOD + "parameters: [1]", "parameters=[1]: expected a mapping"),
        (GOOD + "  - model: x\n", "listed twice"),
        (GOOD + "  - modell: x\n", "models[2].modell is unknown; did you mean 'model'?"),
        (GOOD + "  - model: {model: x, override_architecture: L}\n", "override_architecture is not supported"),
        (GOOD + "  - model: x+\n", "nothing empty around the +"),
        ("merge_method: slerp\nbase_model: b\nmodels: [x, y]\nparameters: {t: 0}", "merges exactly 2"),
        ("merge_method: passthrough\nmodels: [x, y]", "passthrough takes one at a time"),
        ("merge_method: linear\nslices: [{sources: [{model: x}]}]", "sources[0] has no layer_range: [first, last + 1]"),
        ("merge_method: linear\nslices: [{residual_weight: 1, sources: []}]", "residual_weight is not supported"),
        (
            "merge_method: linear\nslices: [{sources: "
            "[{model: x, layer_range: [0, 1]}, {model: y, layer_range: [0, 2]}]}]",
            "ranges of different lengths: [0, 1], [0, 2]",
        ),
        (GOOD + "tokenizer_source: union\ntokenizer: {source: base}", "both given"),
        ("a: 1\n---\nb: 2\n", "recipe:3: a second document begins"),
        ("a: [1\n", "no YAML that can be read"),
        ("a: 1\nb: \0", "recipe:2: no YAML that can be read"),
        ('merge_method: linear\nchat_template: "\\ud800"', "recipe:2: '\\ud800' holds half a character"),
        ('merge_method: linear\n"\\ud800": 1', "recipe:2: '\\ud800' holds half a character"),
        ("a: !!python/object:os.system x\n", "no YAML that can be read"),
        ("a: !!set {x, y}\n", "is not plain data"),
        ("merge_method: [ties]\nmodels: [x]", "merge_method=['ties']"),
        ("x: &x [*x]\n", "aliases that multiply or contain themselves"),
        ("a: " + "[" * 40 + "]" * 40 + "\n", "nested deeper"),
        ("\n" * (1 << 20) + "a: 1", "a recipe has at most"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text, message):
    assert message in said(text)


def test_a_bomb_is_stopped():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    assert "aliases that multiply" in said("\n".join(lines))


def test_all_problems_are_listed_with_their_lines():
    message = said("merge_method: ties\nbase_model: b\nmodels:\n  - model: 3\n  - modl: x\nseed: a\n", "r.yaml")
    assert message.startswith("r.yaml is no recipe that can be carried out:")
    for part in ("r.yaml:4: models[0].model=3", "r.yaml:5: models[1].modl is unknown", "r.yaml:6: seed='a'"):
        assert part in message


def test_models_are_named_with_their_place():
    text = "merge_method: ties\nbase_model: b\nmodels:\n  - model: x\ntokenizer_source: y\n"
    recipe = read_recipe(text)
    assert [each.path for each in recipe.models] == [("models", 0, "model"), ("base_model",), ("tokenizer_source",)]
    gone = wrong("source", "x", "no such folder", SourceError)
    told = [recipe.told(each, gone) for each in recipe.models]
    assert str(told[0]) == "recipe:4: models[0].model='x': no such folder"
    assert [type(each) for each in told] == [SourceError] * 3


@pytest.mark.parametrize(
    ("model", "adapters"),
    [
        ("x+y+z", ["recipe:4: models[0].model='y'", "recipe:4: models[0].model='z'"]),
        ("{model: x, lora: y}", ["recipe:4: models[0].model.lora='y'"]),
        ("x\n    adapters: y", ["recipe:5: models[0].adapters='y'"]),
        ("x+y\n    adapters:\n      - z", ["recipe:4: models[0].model='y'", "recipe:6: models[0].adapters[0]='z'"]),
    ],
)
def test_adapters_are_named_with_their_place(model, adapters):
    text = f"merge_method: linear\nbase_model: b\nmodels:\n  - model: {model}\n"
    recipe = read_recipe(text)
    named = recipe.models[0]
    told = []
    for name in named.adapters:
        error = wrong("source", name, "no such folder")
        error.within = name
        told.append(str(recipe.told(named, error)))
    assert told == [f"{each}: no such folder" for each in adapters]


LAST = "models:\n  - {model: x, parameters: {density: 0.5}}\n  - model: y\n    parameters:\n"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("models: [x, y]\nparameters:\n  weight: 1\n  density: 1.5", "recipe:6: parameters.density=1.5: expected"),
        ("models: [x, y]\nparameters:\n  weight: 1\n  lambda: many", "recipe:6: parameters.lambda='many': expected"),
        ("models: [x, y]\nparameters:\n  rescale: l2", "recipe:5: parameters.rescale='l2': expected"),
        (LAST + "      density: [7, 7]", "recipe:7: models[1].parameters.density[0]=7: expected"),
        (
            LAST + "      density:\n      - 0.5\n      - 0.7\n      - 7",
            "recipe:10: models[1].parameters.density[2]=7: ",
        ),
        (LAST + "      density: [0.5, 7]", "recipe:7: models[1].parameters.density=3.75: expected"),
        (
            LAST + "      density:\n        filter: w\n        value: 7",
            "recipe:9: models[1].parameters.density.value=7: ",
        ),
        (
            LAST + "      density:\n      - {filter: q, value: 9}\n      - value: 7",
            "recipe:9: models[1].parameters.density[1].value=7: expected",
        ),
        (LAST + "      weight: heavy", "recipe:7: models[1].parameters.weight='heavy': expected a number"),
    ],
)
def test_values_that_do_not_fit_are_told_with_their_line(parameters, message):
    recipe = read_recipe(f"merge_method: ties\nbase_model: b\n{parameters}\n")
    shapes = {f"layers.{n}.w": (2,) for n in range(3)}
    with pytest.raises(RequestError) as caught:
        recipe.jobs([shapes] * 3, [3] * 3)
    assert message in str(caught.value)


def test_the_base_counts_where_the_method_says_so():
    text = "merge_method: slerp\nbase_model: b\nmodels: [x, y]\nparameters: {t: 0.5}\n"
    assert "the base_model counts as one of them" in said(text)


def test_merge_keys_and_aliases():
    text = """
merge_method: ties
base_model: b
models:
  - model: x
    parameters: &p {weight: 0.5, density: 0.3}
  - model: y
    parameters: {<<: *p, density: 0.7}
"""
    job = read_recipe(text).jobs([{"w": (2,)}] * 3, [None] * 3)[0]
    assert (job.weights, job.parameters["density"]) == ((0.5, 0.5), (0.3, 0.7))


def test_files_that_cannot_be_read(tmp_path):
    assert "expected a YAML file that can be read" in said(tmp_path / "no.yaml")
    assert said(tmp_path).count("expected a YAML file") == said(tmp_path).count("this is a folder") == 1
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert "b.yaml:1: no UTF-8 text" in said(tmp_path / "b.yaml")
    assert "expected a path, YAML text or a dict" in said(3)
    assert "expected text, a number" in said({"merge_method": object()})
    assert said({3: 4}) == "recipe: has the key 3: keys are words"
    assert "recipe: roles[0]='\\udcff': holds half a character" in said({"roles": ["\udcff"]})


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
def test_a_file_whose_name_is_no_text(tmp_path):
    path = tmp_path / os.fsdecode(b"b\xff.yaml")
    path.write_text(GOOD)
    assert read_recipe(path).label == "b\ufffd.yaml"


def test_a_recipe_is_json(tmp_path):
    assert json.loads(json.dumps(read_recipe(GOOD).given)) == yaml.safe_load(GOOD)


@pytest.mark.parametrize("wrong", ["weight: .nan", "densty: 0.5", "weight: [1, {value: 2}]"])
def test_what_is_wrong_is_told_all_at_once(wrong):
    text = f"""merge_method: ties
base_model: b
models:
  - {{model: x, parameters: {{{wrong}}}}}
  - {{model: y, parameters: {{density: [{{value: 0}}, {{filter: q, value: [0.5, 2]}}]}}}}
  - {{model: z, parameters: {{density: 2}}}}
parameters: {{rescale: l2, lambda: 0.7}}
"""
    with pytest.raises(RequestError) as caught:
        read_recipe(text)
    first, *others = str(caught.value).splitlines()[1:]
    assert first.startswith("  - recipe:4: models[0].parameters.")
    assert [each[4:].split(": expected")[0] for each in others] == [
        "recipe:5: models[1].parameters.density[1].value[1]=2",
        "recipe:6: models[2].parameters.density=2",
        "recipe:7: parameters.rescale='l2'",
    ]
