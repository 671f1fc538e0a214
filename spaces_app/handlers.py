"""What all event handlers of the page share."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
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
