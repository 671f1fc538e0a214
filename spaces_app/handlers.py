"""What all event handlers of the page share."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import actions
import gradio as gr
import views
from editing import RefusedError
from form import Problem
from tensors import CancelledError

LOG = logging.getLogger("spaces_app")
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
HEAVY: dict[str, Any] = {"concurrency_id": "tensors", "concurrency_limit": 1, "api_visibility": "private"}


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


def visit_of(request: gr.Request) -> actions.Visit:
    """The visit that a request belongs to."""
    return actions.VISITS.of(request.session_hash)


def with_cancel(
    press: Any, cancel: Any, told: Any, waiting: str, stop_of: Callable[[actions.Visit], Path],
    work: Callable[..., Any], inputs: Any, outputs: Any, **options: Any,
) -> None:  # fmt: skip
    """Work that a button begins and another one stops, by a file that the work looks at; also while it waits.

    Args:
        press, cancel: the buttons; only one of them can be pressed at a time.
        told: where it is shown how far the work is, and `waiting` before it begins.
        stop_of: gives the file of a visit.
        work, inputs, outputs, options: as gradio's events take them.
    """

    def start(request: gr.Request) -> list[Any]:
        stop_of(visit_of(request)).unlink(missing_ok=True)
        return [gr.Button(interactive=False), gr.Button(interactive=True), views.note(waiting)]

    def stop(request: gr.Request) -> Any:
        stop_of(visit_of(request)).touch()
        return gr.Button(interactive=False)

    begun = press.click(start, None, [press, cancel, told], **QUICK)
    ran = begun.then(work, inputs, outputs, show_progress_on=[told], **options)
    ran.then(lambda: [gr.Button(interactive=True), gr.Button(interactive=False)], None, [press, cancel], **QUICK)
    cancel.click(stop, None, cancel, **QUICK)
