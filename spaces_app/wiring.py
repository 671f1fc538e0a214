"""What happens when the page is used: components' values in, actions, components' values out."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from typing import Any

import actions
import gradio as gr
import places
import views
from actions import RefusedError
from form import Form, Problem, form_of, from_link, read, to_link
from layout import Page, form_from, form_values, shown_of
from preflight import preflight
from tensors import CancelledError, Teller

import hf_merge3h
from hf_merge3h import MergeError

LOG = logging.getLogger("spaces_app")
_QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
_HEAVY: dict[str, Any] = {"concurrency_id": "tensors", "concurrency_limit": 1, "api_visibility": "private"}


def wire(page: Page, blocks: gr.Blocks) -> None:
    """Attach all events."""
    _recipe_events(page, blocks)
    _control_events(page)
    _search_events(page)
    _merge_events(page)
    _chat_events(page)
    _sweep_events(page)
    if actions.can_log_in():
        _publish_events(page)
    blocks.unload(_leave)


def guarded(function: Callable[..., Any], show: Callable[[str], Any]) -> Callable[..., Any]:
    """A handler that tells a visitor what went wrong, never how it looks inside."""

    @functools.wraps(function)
    def handle(*args: Any) -> Any:
        try:
            return function(*args)
        except RefusedError as error:
            return show(views.problems(error.problems, "This cannot be done yet"))
        except CancelledError:
            return show(views.note("Cancelled. Nothing of it is left."))
        except Exception:
            LOG.exception("%s failed", function.__name__)
            return show(views.problems([Problem(None, "something broke here", "try again")], "This went wrong"))

    return handle


def _leave(request: gr.Request) -> None:
    actions.VISITS.close(request.session_hash)


def _visit(request: gr.Request) -> actions.Visit:
    return actions.VISITS.of(request.session_hash)


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
        names = actions.sweepable(text)
        beyond = form.beyond if form.experts else ("slices or modules",)
        return [
            *values, actions.method_help(form.method), shown_of(form, recipe.given),
            views.recipe_state((), text, beyond), gr.Dropdown(choices=names, value=names[0] if names else None),
        ]  # fmt: skip

    def load(draft: str, request: gr.Request) -> list[Any]:
        demo = next(iter(actions.examples().values()))
        text, code = draft or demo, request.query_params.get("recipe")
        if code:
            try:
                text = from_link(str(code))
            except ValueError as error:
                gr.Warning(f"{error}; the demo's recipe is shown instead.")
                text = demo
        return [text, *show(text)]

    def from_form(text: str, shown: str, *values: Any) -> list[Any]:
        try:
            form = form_from(list(values), {})
            kept = Form(**{**vars(form), "parameters": _kept(text, form.method)})
            changed = actions.change_form(text, kept)
        except RefusedError as error:
            return [text, gr.skip(), gr.skip(), views.recipe_state(error.problems, text, ()), gr.skip()]
        recipe, problems = read(changed)
        names = actions.sweepable(changed)
        return [
            changed, actions.method_help(form.method),
            shown_of(form_of(recipe.given), recipe.given) if recipe and f'"{form.method}"' not in shown else gr.skip(),
            views.recipe_state(problems, changed, form_of(recipe.given).beyond if recipe else ()),
            gr.Dropdown(choices=names, value=names[0] if names else None) if names else gr.skip(),
        ]  # fmt: skip

    blocks.load(load, [page.draft], [page.yaml, *shown], **_QUICK)
    blocks.load(lambda: views.banner(places.hub_reachable()), None, page.banner, **{**_QUICK, "queue": True})
    page.yaml.input(show, page.yaml, shown, trigger_mode="always_last", **_QUICK)
    page.yaml.change(None, page.yaml, page.draft, js="(text) => text", api_visibility="private")
    results = [page.yaml, page.method_help, page.shown, page.state, page.sweep_over]
    for component in page.form:
        component.input(
            from_form, [page.yaml, page.shown, *page.form], results, trigger_mode="always_last", **_QUICK
        )  # fmt: skip
    page.example.input(
        lambda name: (text := actions.examples()[name], *show(text)), page.example, [page.yaml, *shown], **_QUICK
    )
    page.share.click(lambda text: views.link(to_link(text)), page.yaml, page.link, **_QUICK)


def _kept(text: str, method: str) -> dict[str, Any]:
    """The parameters that stay when the form changes: those of the recipe that the method has."""
    recipe, _ = read(text)
    given = form_of(recipe.given).parameters if recipe is not None else {}
    known = hf_merge3h.recipe_parameters(method)
    required = {"t": known["t"].default} if "t" in known else {}
    return {**required, **{name: value for name, value in given.items() if name in known}}


# --- the method's controls, made from the registry ---


def _control_events(page: Page) -> None:
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
                    trigger_mode="always_last", key=("set", shown["method"], name, shown["made"]), **_QUICK,
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
        changed = actions.set_parameter(text, name, value)
    except RefusedError as error:
        return [text, views.recipe_state(error.problems, text, ())]
    recipe, problems = read(changed)
    return [changed, views.recipe_state(problems, changed, form_of(recipe.given).beyond if recipe else ())]


# --- models ---


def _search_events(page: Page) -> None:
    def search(words: str, kind: str) -> list[Any]:
        hidden = [gr.Radio(visible=False), gr.Dropdown(visible=False)]
        if not places.hub_reachable():
            return [*hidden, views.note("The Hub cannot be reached from here, so there is nothing to search.")]
        try:
            found = places.search(words or "", kind == "adapters")
        except Exception as error:  # whatever a network does
            LOG.warning("search failed: %s", type(error).__name__)
            return [*hidden, views.note("The Hub did not answer. Try again in a minute.")]
        if not found:
            return [*hidden, views.note("Nothing was found. Try fewer words.")]
        return [gr.Radio(choices=found, value=None, visible=True), gr.Dropdown(visible=True), ""]

    def put(found: str, target: str) -> list[Any]:
        places_of = ["Base model", *(f"Expert {n}" for n in range(1, len(page.rows) + 1))]
        return [found if name == target else gr.skip() for name in places_of]

    outputs = [page.hits, page.target, page.search_note]
    gr.on([page.search.click, page.words.submit], search, [page.words, page.kind], outputs, api_visibility="private")
    sources = [page.base, *(row[1] for row in page.rows)]
    put_in = page.hits.input(put, [page.hits, page.target], sources, **_QUICK)
    put_in.then(_resync, [page.yaml, *page.form], [page.yaml, page.state], **_QUICK)


def _resync(text: str, *values: Any) -> list[Any]:
    form = form_from(list(values), {})
    try:
        changed = actions.change_form(text, Form(**{**vars(form), "parameters": _kept(text, form.method)}))
    except RefusedError as error:
        return [text, views.recipe_state(error.problems, text, ())]
    _, problems = read(changed)
    return [changed, views.recipe_state(problems, changed, ())]


# --- preflight and merge ---


def _merge_events(page: Page) -> None:
    def check(text: str, request: gr.Request) -> str:
        return views.checked(preflight(text, _visit(request).folder), text)

    page.preflight.click(
        guarded(check, lambda shown: shown),
        page.yaml,
        page.preflight_out,
        concurrency_limit=4,
        api_visibility="private",
    )
    results = [page.status, page.look, page.chooser, page.card, page.files, page.files_note, page.compare]

    def start(request: gr.Request) -> list[Any]:
        _visit(request).stop.unlink(missing_ok=True)
        waiting = views.note("Waiting for the merges before this one ...")
        return [gr.Button(interactive=False), gr.Button(interactive=True), waiting]

    def merge(text: str, request: gr.Request, progress: Any = gr.Progress()) -> list[Any]:  # noqa: B008
        visit = _visit(request)
        progress(0, desc="Checking")
        made = actions.merge(visit, text, Teller(visit.stop))
        return [views.merged(made), *_chosen(visit, made), views.compare(visit)]

    def failed(shown: str) -> list[Any]:
        return [shown, *[gr.skip()] * (len(results) - 1)]

    def cancel(request: gr.Request) -> Any:
        _visit(request).stop.touch()
        return gr.Button(interactive=False)

    def choose(number: int, request: gr.Request) -> list[Any]:
        visit = _visit(request)
        made = visit.find(number)
        if made is None:
            return [views.look(None), gr.skip(), "", gr.skip(), views.note("That merge is gone.")]
        return _chosen(visit, made)

    begun = page.merge.click(start, None, [page.merge, page.cancel, page.status], **_QUICK)
    ran = begun.then(
        _keep_signature(guarded(merge, failed), merge), page.yaml, results, show_progress_on=[page.status], **_HEAVY
    )
    ran.then(
        lambda: [gr.Button(interactive=True), gr.Button(interactive=False)], None, [page.merge, page.cancel], **_QUICK
    )
    page.cancel.click(cancel, None, page.cancel, **_QUICK)
    page.chooser.input(
        choose,
        page.chooser,
        [page.look, page.chooser, page.card, page.files, page.files_note],
        api_visibility="private",
    )


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
        made = _visit(request).find(number)
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

    heavy = {**_HEAVY, "concurrency_id": "voices"}
    asking = gr.on(
        [page.ask.click, page.prompt.submit], ask, [page.prompt, page.tokens, page.chooser], page.answers, **heavy
    )
    page.hush.click(None, None, None, cancels=[asking], api_visibility="private")


def _sweep_events(page: Page) -> None:
    def sweep(text: str, parameter: str | None, values: str, request: gr.Request, progress: Any = gr.Progress()) -> str:  # noqa: B008
        visit = _visit(request)
        visit.stop.unlink(missing_ok=True)
        if parameter is None or parameter not in actions.sweepable(text):
            raise RefusedError([Problem(None, "nothing to sweep over", "choose a parameter of the method")])
        progress(0, desc="Checking")
        return views.chart(
            actions.sweep(visit, text, parameter, actions.numbers_of(values), Teller(visit.stop)), "sweep"
        )

    page.sweep.click(
        guarded(sweep, lambda shown: shown), [page.yaml, page.sweep_over, page.sweep_values], page.swept, **_HEAVY
    )


def _publish_events(page: Page) -> None:
    def publish(
        number: int | None, name: str, private: bool, request: gr.Request,
        profile: gr.OAuthProfile | None = None, token: gr.OAuthToken | None = None,
    ) -> str:  # fmt: skip
        made = _visit(request).find(number)
        repo = f"{profile.username}/{name.strip()}" if profile is not None and "/" not in name else name
        found = actions.publish(made, repo, private, token.token if token is not None else None)
        return views.published(found.repo, found.url, found.notes)

    page.publish.click(
        guarded(publish, lambda shown: shown), [page.chooser, page.repo, page.private], page.published,
        api_visibility="private",
    )  # fmt: skip
