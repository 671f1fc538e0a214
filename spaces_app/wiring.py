"""What happens when the page is used: components' values in, actions, components' values out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import actions
import editing
import gradio as gr
import places
import views
from controls import control_events, kept
from editing import RefusedError
from form import Form, Problem, form_of, from_link, read, to_link
from handlers import HEAVY, LOG, QUICK, guarded, visit_of
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
    _chat_events(page)
    _sweep_events(page)
    if actions.can_log_in():
        publish_events(page)
    blocks.unload(_leave)


def _leave(request: gr.Request) -> None:
    actions.VISITS.close(request.session_hash)


# --- the recipe ---


def _recipe_events(page: Page, blocks: gr.Blocks) -> None:
    shown = [*page.form, page.method_help, page.shown, page.state, page.sweep_over]

    def show(text: str) -> list[Any]:
        recipe, problems = read(text)
        if recipe is None:
            waiting = [gr.skip()] * (len(page.form) + 2)
            return [*waiting, views.recipe_state(problems, text, ()), gr.skip()]
        form = form_of(recipe.given)
        values = form_values(form) if form.experts else [gr.skip()] * len(page.form)
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
        values = [text, *show(text)]
        if text == demo:  # its controls are there; making them anew would lose what a quick visitor has typed
            values[1 + len(page.form) + 1] = gr.skip()
        return values

    def from_form(text: str, shown: str, *values: Any) -> list[Any]:
        try:
            form = form_from(list(values), {})
            whole = Form(**{**vars(form), "parameters": kept(text, form.method)})
            changed = editing.change_form(text, whole)
        except RefusedError as error:
            return [text, gr.skip(), gr.skip(), views.recipe_state(error.problems, text, ()), gr.skip()]
        recipe, problems = read(changed)
        names = editing.sweepable(changed)
        return [
            changed, editing.method_help(form.method),
            shown_of(form_of(recipe.given), recipe.given) if recipe and f'"{form.method}"' not in shown else gr.skip(),
            views.recipe_state(problems, changed, form_of(recipe.given).beyond if recipe else ()),
            gr.Dropdown(choices=names, value=names[0] if names else None) if names else gr.skip(),
        ]  # fmt: skip

    blocks.load(load, [page.draft], [page.yaml, *shown], **QUICK)
    blocks.load(lambda: views.banner(places.hub_reachable()), None, page.banner, **{**QUICK, "queue": True})
    page.yaml.input(show, page.yaml, shown, trigger_mode="always_last", **QUICK)
    page.yaml.change(None, page.yaml, page.draft, js="(text) => text", api_visibility="private")
    results = [page.yaml, page.method_help, page.shown, page.state, page.sweep_over]
    for component in page.form:
        component.input(
            from_form, [page.yaml, page.shown, *page.form], results, trigger_mode="always_last", **QUICK
        )  # fmt: skip
    page.example.input(
        lambda name: (text := editing.examples()[name], *show(text)), page.example, [page.yaml, *shown], **QUICK
    )
    page.share.click(lambda text: views.link(to_link(text)), page.yaml, page.link, **QUICK)


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

    def start(request: gr.Request) -> list[Any]:
        visit_of(request).stop.unlink(missing_ok=True)
        waiting = views.note("Waiting for the merges before this one ...")
        return [gr.Button(interactive=False), gr.Button(interactive=True), waiting]

    def merge(text: str, request: gr.Request, progress: Any = gr.Progress()) -> list[Any]:  # noqa: B008
        visit = visit_of(request)
        progress(0, desc="Checking")
        made = actions.merge(visit, text, Teller(visit.stop))
        return [views.merged(made), *_chosen(visit, made), views.compare(visit)]

    def failed(shown: str) -> list[Any]:
        return [shown, *[gr.skip()] * (len(results) - 1)]

    def cancel(request: gr.Request) -> Any:
        visit_of(request).stop.touch()
        return gr.Button(interactive=False)

    def choose(number: int, request: gr.Request) -> list[Any]:
        visit = visit_of(request)
        made = visit.find(number)
        if made is None:
            return [views.look(None), gr.skip(), "", gr.skip(), views.note("That merge is gone.")]
        return _chosen(visit, made)

    begun = page.merge.click(start, None, [page.merge, page.cancel, page.status], **QUICK)
    ran = begun.then(
        _keep_signature(guarded(merge, failed), merge), page.yaml, results, show_progress_on=[page.status], **HEAVY
    )
    ran.then(
        lambda: [gr.Button(interactive=True), gr.Button(interactive=False)], None, [page.merge, page.cancel], **QUICK
    )
    page.cancel.click(cancel, None, page.cancel, **QUICK)
    page.chooser.input(
        choose,
        page.chooser,
        made_of,
        api_visibility="private",
    )

    def evaluate(number: int | None, request: gr.Request, progress: Any = gr.Progress()) -> list[Any]:  # noqa: B008
        visit = visit_of(request)
        made = visit.find(number)
        if made is None:
            raise RefusedError([Problem(None, "nothing is merged yet", "press Merge above first")])
        visit.stop.unlink(missing_ok=True)
        progress(0, desc="Fetching questions")
        measured = actions.evaluate(visit, made, Teller(visit.stop, "Evaluating"))
        said = f"The results stand below and in the card. {actions.measuring.told(measured.manifest['evaluation'])}"
        return [views.note(said), *_chosen(visit, measured)]

    page.evaluate.click(
        _keep_signature(guarded(evaluate, lambda shown: [shown, *[gr.skip()] * len(made_of)]), evaluate),
        page.chooser, [page.evaluated, *made_of], show_progress_on=[page.evaluated],
        **{**HEAVY, "concurrency_id": "voices"},
    )  # fmt: skip


def _keep_signature(wrapper: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """gradio reads a handler's signature to see what it wants; `functools.wraps` keeps it as `__wrapped__`."""
    assert wrapper.__wrapped__ is function  # type: ignore[attr-defined]
    return wrapper


def _chosen(visit: actions.Visit, made: actions.Merge) -> list[Any]:
    """The page for one of a visit's merges."""
    choices = [(merge.title, merge.number) for merge in visit.merges]
    chooser = gr.Radio(choices=choices, value=made.number, visible=len(choices) > 1)
    files = [str(path) for path in sorted(made.folder.iterdir()) if path.is_file()]
    total = places.size(sum(path.stat().st_size for path in made.folder.iterdir()))
    told = views.note(f"{made.title}: {len(files)} files, {total}. recipe.yaml makes it again with hf-merge3h merge.")
    return [views.look(made), chooser, actions.card_of(made), gr.File(value=files, visible=True), told]


# --- chat and sweep ---


def _chat_events(page: Page) -> None:
    for button, prompt in page.offers:
        button.click(None, None, page.prompt, js=f"() => {prompt!r}", api_visibility="private")

    def ask(prompt: str, tokens: int, number: int | None, request: gr.Request) -> Any:
        made = visit_of(request).find(number)
        if made is None:
            yield views.note("Nothing is merged yet. Press Merge above, then ask.")
            return
        yield views.note("Thinking ...")
        said: dict[str, str] = {}
        try:
            for said in actions.chat(made, prompt, tokens):
                yield views.answers(said, {}, done=False)
        except RefusedError as error:
            yield views.problems(error.problems, "No answer")
            return
        except Exception:
            LOG.exception("chat failed")
            yield views.problems([Problem(None, "something broke here", "try again")], "No answer")
            return
        yield views.answers(said, actions.marks(said), done=True)

    heavy = {**HEAVY, "concurrency_id": "voices"}
    asking = gr.on(
        [page.ask.click, page.prompt.submit], ask, [page.prompt, page.tokens, page.chooser], page.answers, **heavy
    )
    page.hush.click(None, None, None, cancels=[asking], api_visibility="private")


def _sweep_events(page: Page) -> None:
    def sweep(text: str, parameter: str | None, values: str, request: gr.Request, progress: Any = gr.Progress()) -> str:  # noqa: B008
        visit = visit_of(request)
        visit.stop.unlink(missing_ok=True)
        if parameter is None or parameter not in editing.sweepable(text):
            raise RefusedError([Problem(None, "nothing to sweep over", "choose a parameter of the method")])
        progress(0, desc="Checking")
        return views.chart(
            actions.sweep(visit, text, parameter, editing.numbers_of(values), Teller(visit.stop)), "sweep"
        )

    page.sweep.click(
        guarded(sweep, lambda shown: shown), [page.yaml, page.sweep_over, page.sweep_values], page.swept, **HEAVY
    )
