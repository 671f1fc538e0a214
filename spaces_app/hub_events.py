"""What the page does with the Hub: search for models, and publish."""

from __future__ import annotations

from typing import Any

import actions
import editing
import gradio as gr
import places
import views
from controls import kept
from editing import RefusedError
from form import Form, read
from handlers import LOG, QUICK, guarded, visit_of
from layout import Page, form_from


def search_events(page: Page) -> None:
    """Search the Hub, and put what was found into the form."""

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
    put_in = page.hits.input(put, [page.hits, page.target], sources, **QUICK)
    put_in.then(_resync, [page.yaml, *page.form], [page.yaml, page.state], **QUICK)


def _resync(text: str, *values: Any) -> list[Any]:
    form = form_from(list(values), {})
    try:
        changed = editing.change_form(text, Form(**{**vars(form), "parameters": kept(text, form.method)}))
    except RefusedError as error:
        return [text, views.recipe_state(error.problems, text, ())]
    _, problems = read(changed)
    return [changed, views.recipe_state(problems, changed, ())]


def publish_events(page: Page) -> None:
    """Publish a merge under the name of whoever logged in."""

    def publish(
        number: int | None, name: str, private: bool, request: gr.Request,
        profile: gr.OAuthProfile | None = None, token: gr.OAuthToken | None = None,
    ) -> str:  # fmt: skip
        made = visit_of(request).find(number)
        repo = f"{profile.username}/{name.strip()}" if profile is not None and "/" not in name else name
        found = actions.publish(made, repo, private, token.token if token is not None else None)
        return views.published(found.repo, found.url, found.notes)

    page.publish.click(
        guarded(publish, lambda shown: shown), [page.chooser, page.repo, page.private], page.published,
        api_visibility="private",
    )  # fmt: skip
