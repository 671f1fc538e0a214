"""What happens when the page is used: components' values in, actions, components' values out."""

from __future__ import annotations

import json
from typing import Any

import actions
import editing
import gradio as gr
import places
import views
from asking_events import chat_events, chosen, evaluation_events
from controls import control_events, kept
from editing import RefusedError
from form import MOST_EXPERTS, Form, Problem, form_of, from_link, read, to_link
from handlers import HEAVY, QUICK, guarded, visit_of, with_cancel
from hub_events import publish_events, search_events
from layout import Page, form_from, form_values, shown_of
from preflight import preflight
from tensors import Teller


def wire(page: Page, blocks: gr.Blocks) -> None:
    """Attach all events."""
    _recipe_events(page, blocks)
    control_events(page)
    search_events(page)
    _merge_events(page)
    chat_events(page)
    evaluation_events(page)
    _sweep_events(page)
    if actions.can_log_in():
        publish_events(page)
    blocks.unload(_leave)


def _leave(request: gr.Request) -> None:
    actions.VISITS.close(request.session_hash)


# --- the recipe ---


def _recipe_events(page: Page, blocks: gr.Blocks) -> None:
    shown = [*page.form, page.method_help, page.shown, page.state, page.sweep_over]

    def show(text: str, *there: Any) -> list[Any]:
        recipe, problems = read(text)
        if recipe is None:
            waiting = [gr.skip()] * (len(page.form) + 2)
            return [*waiting, views.recipe_state(problems, text, ()), gr.skip()]
        form = form_of(recipe.given)
        values = form_values(form) if form.experts else [gr.skip()] * len(page.form)
        if there:  # only what the text changed: a visitor may be typing into another field by now
            values = [gr.skip() if new == old else new for new, old in zip(values, there, strict=True)]
        names = editing.sweepable(text)
        beyond = form.beyond if form.experts else ("slices or modules",)
        return [
            *values, editing.method_help(form.method), shown_of(form, recipe.given),
            views.recipe_state((), text, beyond), gr.Dropdown(choices=names, value=names[0] if names else None),
        ]  # fmt: skip

    def load(draft: str, request: gr.Request) -> list[Any]:
        demo = next(iter(editing.examples().values()))
        text, code = draft or demo, request.query_params.get("recipe")
        if code:
            try:
                text = from_link(str(code))
            except ValueError as error:
                gr.Warning(f"{error}; the demo's recipe is shown instead.")
                text = demo
        if text == demo:  # it is there; writing it again would lose what a quick visitor has typed
            return [gr.skip()] * (1 + len(shown))
        return [text, *show(text)]

    def from_form(text: str, shown: str, *values: Any) -> list[Any]:
        try:
            form = form_from(list(values), {})
            if _shows(text, form):
                return [gr.skip()] * 5
            whole = Form(**{**vars(form), "parameters": kept(text, form.method)})
            changed = editing.change_form(text, whole)
        except RefusedError as error:
            return [gr.skip(), gr.skip(), gr.skip(), views.recipe_state(error.problems, text, ()), gr.skip()]
        recipe, problems = read(changed)
        names = editing.sweepable(changed)
        return [
            changed, editing.method_help(form.method),
            shown_of(form_of(recipe.given), recipe.given) if recipe and f'"{form.method}"' not in shown else gr.skip(),
            views.recipe_state(problems, changed, form_of(recipe.given).beyond if recipe else ()),
            gr.Dropdown(choices=names, value=names[0] if names else None) if names else gr.skip(),
        ]  # fmt: skip

    # gradio sends 0 for a number that is shown empty, until it is told once more that it is empty; here, at once
    empty = [part for part in page.form if isinstance(part, gr.Number) and part.value is None]
    blocks.load(None, None, empty, js=f"() => {json.dumps([None] * len(empty))}", api_visibility="private")
    blocks.load(load, [page.draft], [page.yaml, *shown], **QUICK)
    blocks.load(lambda: views.banner(places.hub_reachable()), None, page.banner, **{**QUICK, "queue": True})
    page.yaml.input(show, [page.yaml, *page.form], shown, trigger_mode="always_last", **QUICK)
    page.yaml.change(None, page.yaml, page.draft, js="(text) => text", api_visibility="private")
    results = [page.yaml, page.method_help, page.shown, page.state, page.sweep_over]
    for component in page.form:
        # gradio's text boxes do not tell of what is pasted until they are left
        told = [component.input, *([component.blur] if isinstance(component, gr.Textbox) else [])]
        gr.on(
            told, from_form, [page.yaml, page.shown, *page.form], results, trigger_mode="always_last", **QUICK
        )  # fmt: skip
    page.example.input(
        lambda name: (text := editing.examples()[name], *show(text)), page.example, [page.yaml, *shown], **QUICK
    )
    page.share.click(lambda text: views.link(to_link(text)), page.yaml, page.link, **QUICK)


def _shows(text: str, form: Form) -> bool:
    """Whether a form says what the recipe says already: changing it would only take its comments away."""
    recipe, _ = read(text)
    if recipe is None:
        return False
    known = form_of(recipe.given)
    names = ("base", "kind", "method", "out", "dtype", "seed")
    same = all(getattr(form, name) == getattr(known, name) for name in names)
    return same and form.experts == known.experts[:MOST_EXPERTS]


# --- preflight and merge ---


def _merge_events(page: Page) -> None:
    def check(text: str, request: gr.Request) -> str:
        return views.checked(preflight(text, visit_of(request).folder), text)

    page.preflight.click(
        guarded(check, lambda shown: shown),
        page.yaml,
        page.preflight_out,
        concurrency_limit=4,
        api_visibility="private",
    )
    made_of = [page.look, page.chooser, page.card, page.files, page.files_note]
    results = [page.status, page.look, page.chooser, page.card, page.files, page.files_note, page.compare]

    def merge(text: str, request: gr.Request, progress: Any = gr.Progress()) -> list[Any]:  # noqa: B008
        visit = visit_of(request)
        progress(0, desc="Checking")
        made = actions.merge(visit, text, Teller(visit.stop))
        return [views.merged(made), *chosen(visit, made), views.compare(visit)]

    def failed(shown: str) -> list[Any]:
        return [shown, *[gr.skip()] * (len(results) - 1)]

    def choose(number: int, request: gr.Request) -> list[Any]:
        visit = visit_of(request)
        made = visit.find(number)
        if made is None:
            return [views.look(None), gr.skip(), "", gr.skip(), views.note("That merge is gone.")]
        return chosen(visit, made)

    with_cancel(
        page.merge, page.cancel, page.status, "Waiting for the merges before this one ...", lambda visit: visit.stop,
        guarded(merge, failed), page.yaml, results, **HEAVY,
    )  # fmt: skip
    page.chooser.input(
        choose,
        page.chooser,
        made_of,
        api_visibility="private",
    )


# --- sweep ---


def _sweep_events(page: Page) -> None:
    def sweep(text: str, parameter: str | None, values: str, request: gr.Request, progress: Any = gr.Progress()) -> str:  # noqa: B008
        visit = visit_of(request)
        if parameter is None or parameter not in editing.sweepable(text):
            raise RefusedError([Problem(None, "nothing to sweep over", "choose a parameter of the method")])
        progress(0, desc="Checking")
        return views.chart(
            actions.sweep(visit, text, parameter, editing.numbers_of(values), Teller(visit.stop_of("sweep"))), "sweep"
        )

    def suggest(text: str, parameter: str | None, values: str) -> Any:
        wanted = editing.sweep_values(text, parameter or "")
        return wanted if values in editing.SWEEPS and values != wanted else gr.skip()  # what a visitor wrote stays

    page.sweep_over.change(suggest, [page.yaml, page.sweep_over, page.sweep_values], page.sweep_values, **QUICK)
    shown, given = guarded(sweep, lambda shown: shown), [page.yaml, page.sweep_over, page.sweep_values]
    with_cancel(
        page.sweep, page.stop_sweep, page.swept, "Waiting for the merges before this one ...",
        lambda visit: visit.stop_of("sweep"), shown, given, page.swept, **HEAVY,
    )  # fmt: skip
