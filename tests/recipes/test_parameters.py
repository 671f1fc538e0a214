"""Settings over layers and tensors: as mergekit 0.1.5 evaluates them (values below are its own answers)."""

from __future__ import annotations

import pytest

from hf_merge3h.errors import RequestError
from hf_merge3h.recipes.mergekit import MERGEKIT, as_ours, method_names, rules_of
from hf_merge3h.recipes.parameters import Condition, Levels, evaluate
from hf_merge3h.recipes.read import read_recipe

NAME = "model.layers.0.mlp.w"


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ((0, 1, 0.5), (0, 0.5, 1.0, 0.6, 0.5)),
        ((True, False), (True, True, True, True, False)),
        (("a", "b", "c"), ("a", "a", "b", "b", "c")),
        ((0, True), (0, 0, 0, 0, True)),
        ((Condition("mlp", 0.3), Condition(None, (0, 1))), (0.3,) * 5),
        ((Condition("attn", 0.3),), (None,) * 5),
        ((Condition("", 0.3), Condition("*", 0.7)), (0.3,) * 5),
        ((Condition(".*mlp", 0.3), Condition("*", 0.7)), (0.7,) * 5),  # a filter is no pattern
        ("abc", ("abc",) * 5),
        ((1,), (1,) * 5),
    ],
)
def test_evaluate_is_mergekits(setting, values):
    assert tuple(evaluate(setting, NAME, t) for t in (0, 0.25, 0.5, 0.9, 1)) == pytest.approx(values)


def test_the_nearest_level_that_says_something_counts():
    own = {"weight": (Condition("attn", 1, (0, "value")),)}
    module = {"weight": 2, "density": 3}
    places = ("models", 0), ("slices", 0), ("modules", "m"), ()
    levels = Levels(tuple(zip((own, {}, module, {"weight": 4}), places, strict=True)))
    assert levels.find(("weight",), "attn.w", 0) == 1
    assert levels.find(("weight",), "mlp.w", 0) == 2
    assert levels.find(("density",), "mlp.w", 0) == 3
    assert levels.find(("gamma",), "mlp.w", 0) is None
    assert levels.trace(("weight",), "attn.w", 0) == (1, ("models", 0, "parameters", "weight", 0, "value"))
    assert levels.trace(("weight",), "mlp.w", 0) == (2, ("modules", "m", "parameters", "weight"))


def test_the_table_names_methods_and_parameters_that_exist():
    assert set(MERGEKIT) <= set(method_names())
    for name in method_names():
        rules = rules_of(name)
        assert set(rules.defaults) <= set(rules.spellings)
        assert set(rules.renamed) <= set(rules.spellings)
        assert set(rules.required) <= set(rules.spellings)


def job(text, shapes=None, layers=2):
    recipe = read_recipe(text)
    shapes = shapes or {f"model.layers.{n}.w": (4, 4) for n in range(layers)}
    return recipe.jobs([shapes] * len(recipe.models), [layers] * len(recipe.models))


TIES = "merge_method: ties\nbase_model: b\nmodels: [{{model: x{x}}}, {{model: y{y}}}]\nparameters: {{{p}}}"


def ties(x="", y="", p=""):
    def own(text):
        return f", parameters: {{{text}}}" if text else ""

    return TIES.format(x=own(x), y=own(y), p=p)


def test_mergekits_defaults_are_filled_in():
    found = job(ties())[0]
    assert found.parameters["density"] == 1.0
    assert found.parameters["normalize"] is True
    assert found.weights == (1.0, 1.0)
    dare = job(ties().replace("ties", "dare_ties"))[0].parameters
    assert (dare["rescale"], dare["normalize"], dare["density"]) == ("l1", False, 1.0)
    assert job(ties(p="rescale: false").replace("ties", "della"))[0].parameters["rescale"] == "none"
    assert job("merge_method: sce\nbase_model: b\nmodels: [x, y]")[0].parameters["equal_below"] == 1e-6
    own = job("merge_method: consensus_ta\nbase_model: b\nmodels: [x, y]")[0].parameters
    assert own["mask_lambda"] == 0.4


def test_parameters_of_models_become_one_for_each_expert():
    first, last = job(ties("density: [0.2, 0.4], weight: 2", "density: 0.5"))
    assert (first.parameters["density"], last.parameters["density"]) == ((0.2, 0.5), (0.4, 0.5))
    assert first.weights == (2.0, 1.0)
    assert job(ties("density: 0.5", "density: 0.5"))[0].parameters["density"] == 0.5


def test_lambda_and_scale_are_one():
    assert job(ties(p="lambda: 0.3"))[0].parameters["scale"] == 0.3
    assert job(ties(p="scale: 0.3"))[0].parameters["scale"] == 0.3
    with pytest.raises(RequestError, match=r"lambda and scale \(recipe:\d+\) are two names"):
        read_recipe(ties(p="scale: 0.3, lambda: 0.3"))


def test_numbers_that_yaml_reads_as_text():
    assert job("merge_method: karcher\nmodels: [x, y]\nparameters: {tol: 1e-6}")[0].parameters["tol"] == 1e-6


def test_a_share_of_zero_leaves_an_expert_out():
    found = job(ties("density: 0", "density: 0.5"))[0]
    assert (found.inputs, found.parameters["density"]) == (((1, "model.layers.0.w"),), 0.5)
    assert job(ties(p="density: 0"))[0].method == "passthrough"


def test_weights_of_zero_leave_the_base():
    found = job(ties(p="weight: 0"))[0]
    assert (found.method, found.inputs, found.parameters) == ("passthrough", ((2, "model.layers.0.w"),), {"scale": 1.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ties(p="density: 1.5"), r"density=1.5: expected a number in \(0, 1\]"),
        (ties(p="densty: 0.5"), "parameters.densty is unknown to ties; did you mean 'density'"),
        (ties(p="rescale: l2"), "rescale='l2': expected one of l1, none"),
        (ties(p="density: high"), "density='high': expected a number"),
        ("merge_method: slerp\nbase_model: b\nmodels: [x]", "needs `t` under parameters"),
        (
            "merge_method: linear\nbase_model: b\nmodels: [{model: x, parameters: {weight: 1}}]",
            "has no weight: list it",
        ),
        (
            "merge_method: linear\nmodels: [x, y]\nparameters: {weight: 0}",
            "parameters.weight=0.0: that of every model is 0",
        ),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(RequestError, match=message):
        job(text)


def test_what_has_no_effect_is_a_warning():
    recipe = read_recipe(ties("normalize: false", p="t: 0.5, int8_mask: true"))
    assert len(recipe.warnings) == 2
    assert "recipe:4: parameters.t has no effect on ties" in recipe.warnings[1]


def test_flags_and_rescale_rules():
    assert as_ours(rules_of("ties"), "normalize", 0) is False
    assert as_ours(rules_of("dare_linear"), "rescale", "probability") == "probability"
    assert [job(ties(p=p))[0].parameters["rescale"] for p in ("rescale: true", "rescale: false", "density: 1")] == [
        "l1", "none", "none",
    ]  # fmt: skip
