"""The method's controls, made from the registry: a method that is added to the library appears by itself."""

from __future__ import annotations

import functools
import json
from typing import Any

import editing
import gradio as gr
import views
from editing import RefusedError
from form import form_of, read
from handlers import QUICK
from layout import Page

import hf_merge3h
from hf_merge3h import MergeError


def control_events(page: Page) -> None:
    """Make the controls, and hear of their changes."""
    with page.controls:

        @gr.render(inputs=[page.shown], show_progress="hidden", queue=False)
        def controls(text: str) -> None:
            try:
                shown = json.loads(text)
                known = hf_merge3h.recipe_parameters(shown["method"])
            except (MergeError, TypeError, KeyError, ValueError):
                return
            if not known:
                gr.Markdown("This method has no parameters.")
            for name, parameter in known.items():
                control = control_of(shown["method"], name, parameter, shown)
                if control.interactive is False:
                    continue
                control.input(
                    functools.partial(_set, name, parameter), [page.yaml, control], [page.yaml, page.state],
                    trigger_mode="always_last", key=("set", shown["method"], name, shown["made"]), **QUICK,
                )  # fmt: skip


def control_of(method: str, name: str, parameter: Any, shown: dict[str, Any]) -> Any:
    """The control of one parameter: what its schema says, and the recipe's value."""
    value = shown["parameters"].get(name, parameter.default)
    options: dict[str, Any] = {
        "label": name, "info": f"{parameter.help} ({parameter.expected})".strip(),
        "key": (method, name, shown.get("made")),
        "preserved_by_key": None, "elem_id": f"parameter-{name}",
    }  # fmt: skip
    if name in shown.get("elsewhere", {}):
        return gr.Textbox(shown["elsewhere"][name], interactive=False, **options)
    if parameter.choices:
        value = {True: "l1", False: "none"}.get(value, value) if isinstance(value, bool) else value
        return gr.Dropdown(list(parameter.choices), value=value, interactive=True, **options)
    if parameter.type is bool:
        return gr.Checkbox(bool(value), interactive=True, **options)
    low, high = (parameter.range.low, parameter.range.high) if parameter.range else (float("-inf"), float("inf"))
    if parameter.type is float and low >= 0 and high <= 1 and (value is None or value == 0 or value >= 1e-3):
        return gr.Slider(
            0.01 if parameter.range.low_open else 0, high, value=value, step=0.01, interactive=True, **options
        )
    bounds = {"minimum": low if low > -1e9 else None, "maximum": high if high < 1e9 else None}
    step = {"precision": 0} if parameter.type is int else {"step": 0.1}
    return gr.Number(value, interactive=True, **bounds, **step, **options)


def _set(name: str, parameter: Any, text: str, value: Any) -> list[Any]:
    try:
        value = None if value is None or value == parameter.default else value
        changed = editing.set_parameter(text, name, value)
    except RefusedError as error:
        return [text, views.recipe_state(error.problems, text, ())]
    recipe, problems = read(changed)
    return [changed, views.recipe_state(problems, changed, form_of(recipe.given).beyond if recipe else ())]


def kept(text: str, method: str) -> dict[str, Any]:
    """The parameters that stay when the form changes: those of the recipe that the method has."""
    recipe, _ = read(text)
    given = form_of(recipe.given).parameters if recipe is not None else {}
    known = hf_merge3h.recipe_parameters(method)
    required = {"t": known["t"].default} if "t" in known else {}
    return {**required, **{name: value for name, value in given.items() if name in known}}
