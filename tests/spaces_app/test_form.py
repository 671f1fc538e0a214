"""The form and the YAML are two views of one recipe."""

from __future__ import annotations

import base64
import zlib
from dataclasses import replace
from typing import Annotated

import editing
import form
import machines
import pytest
from editing import RefusedError
from form import Expert, Form
from jaxtyping import Float
from torch import Tensor

import hf_merge3h

DEMO = editing.examples()["demo"]


@pytest.mark.parametrize("text", editing.examples().values(), ids=editing.examples())
def test_examples_can_be_read_and_come_back_from_the_form_unchanged(text):
    recipe, problems = form.read(text)
    assert problems == []
    shown = form.form_of(recipe.given)
    assert form.with_form(recipe.given, shown) == recipe.given
    assert form.read(form.dump(recipe.given))[0].given == recipe.given


def test_a_change_of_the_form_changes_its_keys_and_no_others():
    recipe, _ = form.read(editing.examples()["gradient"])
    shown = form.form_of(recipe.given)
    assert shown.beyond == ("parameters of single experts",)
    changed = form.with_form(recipe.given, replace(shown, seed=7, parameters={"lambda": 0.5}))
    assert changed["seed"] == 7
    assert changed["parameters"] == {"lambda": 0.5}
    assert changed["adapters"] == recipe.given["adapters"]


def test_whole_models_with_weights_and_roles():
    shown = Form(
        "me/base", "models", (Expert("honesty", "me/honest", 0.5), Expert("", "me/nice")), "ties", {"density": 0.3}
    )
    data = form.with_form({}, shown)
    assert data["models"] == [{"model": "me/honest", "parameters": {"weight": 0.5}}, {"model": "me/nice"}]
    assert data["roles"] == ["honesty", "expert_2"]
    assert form.form_of(data) == replace(shown, experts=(shown.experts[0], Expert("expert_2", "me/nice")))


def test_a_wrong_value_names_its_line_and_a_remedy():
    text = "merge_method: ties\nbase_model: me/base\nadapters: {a: me/a}\nparameters:\n  density: 3\n"
    recipe, (problem,) = form.read(text)
    assert recipe is None
    assert (problem.line, problem.text) == (5, "density=3: expected a number in (0, 1], or one for each expert")
    _, (problem,) = form.read(text.replace("ties", "tiez").replace("density: 3", "density: 0.3"))
    assert (problem.line, problem.remedy) == (1, "did you mean 'ties'?")
    _, (problem,) = form.read("merge_method: ties\nmodels: [a\n")
    assert problem.text.startswith("no YAML that can be read")
    assert "open bracket" in problem.remedy


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("merge_method: ties\nmodels: [a\n", 3),
        ("a: &a [x, x]\nb: &b [*a, *a]\n" + "".join(f"c{n}: &c{n} [*b, *b, *b]\n" for n in range(9)), None),
        ("- 1\n- 2\n", None),
        ("", None),
    ],
)
def test_what_is_no_recipe_is_a_problem_and_no_exception(text, line):
    recipe, problems = form.read(text)
    assert recipe is None
    assert problems
    assert line is None or problems[0].line == line


def test_yaml_bombs_are_stopped():
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
    _, (problem,) = form.read(f"a0: &a0 [x, x, x]\n{levels}")
    assert "multiply" in problem.text


def test_links_hold_a_recipe_and_no_bomb():
    assert form.from_link(form.to_link(DEMO)) == DEMO
    assert form.to_link("x" * 30_000) == ""
    bomb = base64.urlsafe_b64encode(zlib.compress(b"a" * 10_000_000, 9)).decode()
    for code in (bomb, "x" * 40_000, "%%%", "AAAA"):
        with pytest.raises(ValueError, match="link"):
            form.from_link(code)


def test_parameters_are_set_and_taken_out():
    changed = editing.set_parameter(DEMO, "lambda", 0.5)
    assert form.read(changed)[0].given["parameters"] == {"lambda": 0.5}
    assert "parameters" not in form.read(editing.set_parameter(changed, "lambda", None))[0].given
    with pytest.raises(RefusedError):
        editing.set_parameter("merge_method: [", "lambda", 1)


def test_a_new_method_appears_by_itself():
    import controls

    from hf_merge3h.registry import unregister

    @hf_merge3h.method("dummy", title="A dummy", paper="arXiv:0000.00000", family="linear")
    def dummy(
        vectors: Float[Tensor, "task batch *shape"],
        weights: Float[Tensor, "task"],
        *,
        zest: Annotated[float, hf_merge3h.Range(0, 1)] = 0.25,
    ) -> Float[Tensor, "batch *shape"]:
        """Sum up, with zest.

        Args:
            vectors: task vectors.
            weights: of the experts.
            zest: how much.
        """
        return vectors.sum(0) * zest

    try:
        assert ("dummy: A dummy", "dummy") in editing.methods()
        (told,) = [each for each in machines.list_methods() if each["name"] == "dummy"]
        assert told["parameters"]["zest"]["default"] == 0.25
        parameter = hf_merge3h.recipe_parameters("dummy")["zest"]
        control = controls.control_of("dummy", "zest", parameter, {"parameters": {}})
        assert (control.label, control.value, control.minimum, control.maximum) == ("zest", 0.25, 0, 1)
        assert "how much." in control.info
    finally:
        unregister("dummy")


@pytest.mark.parametrize("method", [method.name for method in hf_merge3h.list_methods()])
def test_every_parameter_of_every_method_has_a_control_that_shows_its_default(method):
    import controls

    for name, parameter in hf_merge3h.recipe_parameters(method).items():
        control = controls.control_of(method, name, parameter, {"parameters": {}})
        assert control.value == parameter.default, name
        assert control.label == name
        assert control.info
