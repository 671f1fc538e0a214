"""Asking models: the chat and the quick evaluation; and what the page shows of one of a visit's merges."""

from __future__ import annotations

from typing import Any

import actions
import gradio as gr
import places
import views
from editing import RefusedError
from form import Problem
from handlers import HEAVY, LOG, guarded, visit_of, with_cancel
from layout import Page
from tensors import Teller

#: One answer or evaluation at a time: they use the same models.
VOICES: dict[str, Any] = {**HEAVY, "concurrency_id": "voices"}


def chosen(visit: actions.Visit, made: actions.Merge) -> list[Any]:
    """What the page shows of one of a visit's merges."""
    choices = [(merge.title, merge.number) for merge in visit.merges]
    chooser = gr.Radio(choices=choices, value=made.number, visible=len(choices) > 1)
    files = [str(path) for path in sorted(made.folder.iterdir()) if path.is_file()]
    total = places.size(sum(path.stat().st_size for path in made.folder.iterdir()))
    told = views.note(f"{made.title}: {len(files)} files, {total}. recipe.yaml makes it again with hf-merge3h merge.")
    return [views.look(made), chooser, actions.card_of(made), gr.File(value=files, visible=True), told]


def chat_events(page: Page) -> None:
    """Answers side by side, and what stops them."""
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

    asking = gr.on(
        [page.ask.click, page.prompt.submit], ask, [page.prompt, page.tokens, page.chooser], page.answers, **VOICES
    )
    page.hush.click(None, None, None, cancels=[asking], api_visibility="private")


def evaluation_events(page: Page) -> None:
    """The quick evaluation, and what stops it."""
    made_of = [page.look, page.chooser, page.card, page.files, page.files_note]

    def evaluate(number: int | None, request: gr.Request, progress: Any = gr.Progress()) -> list[Any]:  # noqa: B008
        visit = visit_of(request)
        made = visit.find(number)
        if made is None:
            raise RefusedError([Problem(None, "nothing is merged yet", "press Merge above first")])
        progress(0, desc="Fetching questions")
        measured = actions.evaluate(visit, made, Teller(visit.stop_of("evaluation"), "Evaluating"))
        told = actions.measuring.told(measured.manifest["evaluation"])
        said = f"{made.title}: the results stand among its figures and in its card. {told}"
        return [views.note(said), *chosen(visit, measured)]

    def failed(shown: str) -> list[Any]:
        return [shown, *[gr.skip()] * len(made_of)]

    with_cancel(
        page.evaluate, page.stop_evaluation, page.evaluated, "Waiting for the questions before these ...",
        lambda visit: visit.stop_of("evaluation"), guarded(evaluate, failed), page.chooser,
        [page.evaluated, *made_of], **VOICES,
    )  # fmt: skip
