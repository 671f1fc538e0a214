"""Reading and changing a recipe: what the form, the controls and the editor do to one text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from form import MOST_EXPERTS, MOST_TEXT, Expert, Form, Problem, dump, form_of, read, with_form

import hf_merge3h
from hf_merge3h import MergeError

EXAMPLES = Path(__file__).parent / "examples"


class RefusedError(Exception):
    """What a visitor asked for cannot be done; the problems say why, and what to do."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.text for problem in problems))
        self.problems = tuple(problems)


def examples() -> dict[str, str]:
    """Recipes to begin with, by name, the demo's first."""
    paths = sorted(EXAMPLES.glob("*.yaml"), key=lambda path: (path.stem != "demo", path.stem))
    return {path.stem.replace("_", " "): path.read_text(encoding="utf-8") for path in paths}


def methods() -> list[tuple[str, str]]:
    """All methods, as label and name."""
    return [(f"{method.name}: {method.shown_title}", method.name) for method in hf_merge3h.list_methods()]


def method_help(name: str) -> str:
    """What a method does, in a line, and where it is from (Markdown)."""
    try:
        method = hf_merge3h.get_method(name)
    except MergeError as error:
        return str(error)
    link = (
        f"[{method.paper}](https://arxiv.org/abs/{method.paper[6:]})"
        if method.paper.startswith("arXiv")
        else method.paper
    )
    notice = f"  \n*{method.reconstruction}*" if method.reconstruction else ""
    return f"{method.summary} {link}{notice}"


def change_form(text: str, form: Form) -> str:
    """The recipe with what the form says.

    Raises:
        RefusedError: the YAML cannot be read as it stands, so there is nothing to change.
    """
    recipe, problems = read(text)
    if recipe is None:
        raw, unreadable = _raw(text)
        if unreadable:
            raise RefusedError(problems)
        return dump(with_form(raw, form))
    return dump(with_form(recipe.given, form))


def _raw(text: str) -> tuple[dict[str, Any], bool]:
    """A recipe that is YAML and does not make sense yet can be changed all the same."""
    import yaml

    try:
        if len(text) > MOST_TEXT or "&" in text or "*" in text:
            return {}, True
        data = yaml.safe_load(text)
        form_of(data)
    except Exception:  # whatever a half-written text is
        return {}, True
    return (data, False) if isinstance(data, dict) else ({}, True)


def set_parameter(text: str, name: str, value: Any) -> str:
    """The recipe with one parameter of its method changed; None takes it out, and the default counts again."""
    recipe, problems = read(text)
    data = recipe.given if recipe is not None else None
    if data is None:
        data, unreadable = _raw(text)
        if unreadable:
            raise RefusedError(problems)
    form = form_of(data)
    parameters = {key: each for key, each in form.parameters.items() if key != name}
    if value is not None:
        parameters[name] = value
    return dump(with_form(data, Form(**{**vars(form), "parameters": parameters})))


def rows_of(form: Form) -> list[Expert]:
    """The form's rows, padded with empty ones."""
    return [*form.experts[:MOST_EXPERTS], *[Expert()] * (MOST_EXPERTS - len(form.experts))]


def sweepable(text: str) -> list[str]:
    """Parameters of the recipe's method that are numbers, those that people sweep first."""
    recipe, _ = read(text)
    if recipe is None:
        return []
    known = hf_merge3h.recipe_parameters(recipe.method)
    numbers = [name for name, each in known.items() if each.type is float and not each.choices]
    return sorted(numbers, key=lambda name: name not in ("lambda", "scale", "density"))


#: What a sweep begins with: numbers that parameters with no upper end take, and those that shares take.
SWEEPS = ("0.5, 1, 1.5", "0.2, 0.5, 0.8")


def sweep_values(text: str, parameter: str) -> str:
    """Values that a sweep may begin with: some that the parameter takes."""
    recipe, _ = read(text)
    known = hf_merge3h.recipe_parameters(recipe.method).get(parameter) if recipe is not None else None
    return SWEEPS[known is not None and known.range is not None and known.range.high <= 1]


def numbers_of(text: str) -> list[float]:
    """Numbers that a visitor wrote, parted by commas or spaces.

    Raises:
        RefusedError: something else is among them.
    """
    parts = [each for each in re.split(r"[\s,;]+", text[:500].strip()) if each]
    try:
        return [float(each) for each in parts]
    except ValueError:
        raise RefusedError(
            [Problem(None, f"{text[:60]}: no list of numbers", "write for example 0.5, 1, 1.5")]
        ) from None
