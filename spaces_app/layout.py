"""The page's components, and where they stand. What happens when they are used is in `wiring.py`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import actions
import editing
import gradio as gr
import views
from form import MOST_EXPERTS, ROLES, Expert, Form, form_of, read

from hf_merge3h import demo

DTYPES = [("as it was", ""), "float32", "bfloat16", "float16"]
PROMPTS = demo.PROMPTS


@dataclass
class Page:
    """All components that something happens to, by name."""

    parts: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.parts[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def form(self) -> list[Any]:
        """The form's components, in the order of `form_values`."""
        rows = [part for row in self.rows for part in row]
        return [self.base, self.kind, *rows, self.method, self.out, self.dtype, self.seed]


def form_values(form: Form) -> list[Any]:
    """What the form's components show for a form."""
    rows = [value for expert in editing.rows_of(form) for value in (expert.role or None, expert.source, expert.weight)]
    return [form.base, form.kind, *rows, form.method, form.out, form.dtype, form.seed]


def form_from(values: list[Any], parameters: dict[str, Any]) -> Form:
    """The form that its components' values make."""
    base, kind, *rest = values
    *rows, method, out, dtype, seed = rest
    experts = [
        Expert((rows[at] or "").strip()[:100], (rows[at + 1] or "").strip(), rows[at + 2])
        for at in range(0, 3 * MOST_EXPERTS, 3)
    ]
    used = tuple(expert for expert in experts if expert.source)
    return Form((base or "").strip(), kind, used, method, parameters, out, dtype or "", int(seed or 0))


def shown_of(form: Form, data: dict[str, Any]) -> str:
    """What the method's controls are made from, as JSON; each call's text is new, and so makes new controls."""
    given = data.get("parameters") or {}
    elsewhere = {name: str(value) for name, value in given.items() if isinstance(value, (list, dict))}
    shown = {"method": form.method, "parameters": dict(form.parameters), "elsewhere": elsewhere}
    return json.dumps({**shown, "made": time.monotonic_ns()})


def layout() -> Page:
    """Put all components on the page; must be called inside of a `gr.Blocks`."""
    text = next(iter(editing.examples().values()))
    recipe, _ = read(text)
    form = form_of(recipe.given)
    parts: dict[str, Any] = {"draft": gr.BrowserState("", storage_key="merge3h-draft", secret="merge3h-draft")}
    gr.HTML(views.intro())
    parts["banner"] = gr.HTML("", visible=True)
    _models(parts, form)
    _recipe(parts, form, text, recipe.given)
    _merge(parts)
    _look_and_chat(parts)
    _compare(parts, editing.sweepable(text))
    return Page(parts)


def _part(number: int, about: str) -> gr.Column:
    column = gr.Column(elem_classes="part")
    with column:
        gr.HTML(views.part(number, about))
    return column


def _models(parts: dict[str, Any], form: Form) -> None:
    with _part(1, "The base model, and what was trained from it: an expert for each H."):
        with gr.Row():
            parts["base"] = gr.Textbox(
                form.base,
                label="Base model",
                info="A Hub id: owner/name@revision",
                max_lines=1,
                scale=3,
                min_width=280,
            )
            parts["kind"] = gr.Radio(
                [("adapters (LoRA)", "adapters"), ("whole models", "models")],
                value=form.kind, label="The experts are", scale=2, elem_id="kind",
            )  # fmt: skip
        parts["rows"] = []
        for number, expert in enumerate(editing.rows_of(form), start=1):
            with gr.Row(elem_classes="expert-row"):
                role = gr.Dropdown(
                    list(ROLES), value=expert.role or None, label=f"Expert {number}: role", allow_custom_value=True,
                    scale=2, min_width=150,
                )  # fmt: skip
                source = gr.Textbox(
                    expert.source, label=f"Expert {number}: model", placeholder="owner/name, or empty",
                    max_lines=1, scale=4, min_width=200,
                )  # fmt: skip
                weight = gr.Number(
                    expert.weight, label=f"Expert {number}: weight", placeholder="default", scale=1, min_width=110,
                    step=0.1,
                )  # fmt: skip
                parts["rows"].append((role, source, weight))
        with gr.Accordion("Search the Hub", open=False):
            with gr.Row():
                parts["words"] = gr.Textbox(label="Words", placeholder="for example: smollm2 honest", scale=4)
                parts["search"] = gr.Button("Search", scale=1)
            with gr.Row():
                parts["hits"] = gr.Radio([], label="Found", visible=False, scale=4)
                parts["target"] = gr.Dropdown(
                    ["Base model", *(f"Expert {n}" for n in range(1, MOST_EXPERTS + 1))],
                    value="Expert 1", label="Put it in", visible=False, scale=1,
                )  # fmt: skip
            parts["search_note"] = gr.HTML("")


def _recipe(parts: dict[str, Any], form: Form, text: str, data: dict[str, Any]) -> None:
    with (
        _part(
            2,
            "How to merge. Form and YAML are two views of one recipe: change either. In the editor Tab indents; Esc "
            "and then Tab leaves it.",
        ),
        gr.Row(equal_height=False),
    ):
        with gr.Column(scale=1, min_width=320):
            parts["method"] = gr.Dropdown(editing.methods(), value=form.method, label="Method", filterable=True)
            parts["method_help"] = gr.Markdown(editing.method_help(form.method))
            # hidden, and no gr.State: a state tells of its changes through the queue only
            parts["shown"] = gr.Textbox(shown_of(form, data), visible="hidden", label="Shown parameters")
            parts["controls"] = gr.Column()
            with gr.Row():
                parts["out"] = gr.Radio(["weights", "adapter"], value=form.out, label="Result", min_width=150)
                parts["dtype"] = gr.Dropdown(DTYPES, value=form.dtype, label="Stored as", min_width=130)
                parts["seed"] = gr.Number(form.seed, label="Seed of random masks", precision=0, min_width=130)
        with gr.Column(scale=1, min_width=320):
            names = list(editing.examples())
            parts["example"] = gr.Dropdown(names, value=names[0], label="Begin with an example")
            parts["yaml"] = gr.Code(
                text, language="yaml", label="Recipe (YAML)", interactive=True, elem_id="yaml", lines=11, max_lines=26,
                wrap_lines=True, buttons=["copy", "download"],
            )  # fmt: skip
            parts["state"] = gr.HTML(views.recipe_state((), text, ()))
            parts["share"] = gr.Button("Link to this recipe", size="sm", elem_id="share")
            parts["link"] = gr.HTML("", elem_id="link")


def _merge(parts: dict[str, Any]) -> None:
    with _part(3, "Would it work, and what would it take? Reads configs and headers, no weights."):
        parts["preflight"] = gr.Button("Check this recipe")
        parts["preflight_out"] = gr.HTML("")
    with _part(4, "Carries the recipe out. It is checked first, and what would not fit is refused."):
        with gr.Row():
            parts["merge"] = gr.Button("Merge", variant="primary", size="lg", elem_id="merge")
            parts["cancel"] = gr.Button("Cancel", variant="stop", size="lg", interactive=False, elem_id="cancel")
        parts["status"] = gr.HTML("", min_height=60, elem_id="status")


def _look_and_chat(parts: dict[str, Any]) -> None:
    with _part(5, "What the merge did to the weights, and, if you ask, to the answers."):
        parts["chooser"] = gr.Radio([], label="Which merge", visible=False)
        with gr.Row():
            parts["evaluate"] = gr.Button("Quick evaluation (at most 2 minutes)", scale=3, elem_id="evaluate")
            parts["stop_evaluation"] = gr.Button(
                "Cancel", variant="stop", interactive=False, min_width=90, elem_id="stop-evaluation"
            )
        parts["evaluated"] = gr.HTML("", elem_id="evaluated")
        parts["look"] = gr.HTML(views.look(None), elem_id="look")
    with _part(6, "Ask the base, every expert and the merged model the same question; the answers are greedy."):
        with gr.Row():
            parts["offers"] = [
                (gr.Button(f"A question for {role}", size="sm", min_width=180), prompt)
                for role, prompt in PROMPTS.items()
            ]
        parts["prompt"] = gr.Textbox(
            PROMPTS["helpfulness"], label="Your question", lines=3, max_length=2000, elem_id="prompt"
        )
        with gr.Row():
            parts["tokens"] = gr.Slider(8, 160, value=36, step=4, label="Length of an answer, in tokens", min_width=220)
            parts["ask"] = gr.Button("Ask all of them", variant="primary", min_width=150, elem_id="ask")
            parts["hush"] = gr.Button("Stop", variant="stop", min_width=90)
        parts["answers"] = gr.HTML("", elem_id="answers", min_height=40)


def _compare(parts: dict[str, Any], numbers: list[str]) -> None:
    with _part(7, "Merges of this visit beside each other, and one recipe at several values of a parameter."):
        parts["compare"] = gr.HTML(views.note("No merge so far."), elem_id="compare")
        with gr.Row(elem_classes="expert-row"):
            parts["sweep_over"] = gr.Dropdown(
                numbers, value=numbers[0] if numbers else None, label="Sweep over", min_width=150
            )  # fmt: skip
            parts["sweep_values"] = gr.Textbox(editing.SWEEPS[0], label="Values, at most 5", min_width=150)
            parts["sweep"] = gr.Button("Sweep", min_width=120, elem_id="sweep")
            parts["stop_sweep"] = gr.Button(
                "Cancel", variant="stop", interactive=False, min_width=90, elem_id="stop-sweep"
            )
        parts["swept"] = gr.HTML("", elem_id="swept", min_height=40)
    with _part(
        8, "What a reader of the model has to know, the files, and what makes them again. Deleted when you leave."
    ):
        parts["card"] = gr.Markdown("Nothing is merged yet.", elem_id="card", max_height=520, container=True)
        parts["files"] = gr.File(
            label="Files", file_count="multiple", interactive=False, visible=False, elem_id="files"
        )
        parts["files_note"] = gr.HTML("")
    with _part(9, "Put the merge, with its card and manifest, on the Hugging Face Hub, under your name."):
        if not actions.can_log_in():
            gr.HTML(views.no_login())
            return
        parts["login"] = gr.LoginButton()
        with gr.Row(elem_classes="expert-row"):
            parts["repo"] = gr.Textbox(
                label="Name of the model", placeholder="my-balanced-model", min_width=220, scale=3
            )
            parts["private"] = gr.Checkbox(True, label="Private", min_width=120, scale=1)
            parts["publish"] = gr.Button("Publish", variant="primary", min_width=140, scale=1)
        parts["published"] = gr.HTML("", min_height=40)
