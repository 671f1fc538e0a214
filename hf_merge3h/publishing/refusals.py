"""What the Hub's refusals mean to whoever publishes, in one line each; a token is never in it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ..errors import OutputError, SourceError
from .text import one_line

Result = TypeVar("Result")
_PATIENCE = 4  # times that a busy Hub is asked again
_LONGEST_WAIT = 120.0  # seconds; a Hub that wants more is reported
#: Libraries whose errors mean that the Hub could not be reached or hung up.
_WIRE = ("httpx", "httpx2", "httpcore", "httpcore2", "hf_xet", "requests", "urllib3")


@contextlib.contextmanager
def in_one_line(repo: str, doing: str, token: Any, again: str = "") -> Iterator[None]:
    """Turn what huggingface_hub raises into an OutputError, or a SourceError where the request was wrong.

    Args:
        repo: what it is about.
        doing: what was tried.
        token: never shown.
        again: what to say where trying again helps.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except (SourceError, OutputError):
        raise
    except LocalTokenNotFoundError:
        raise SourceError(f"{repo}: {doing}: no token; log in (hf auth login) or set HF_TOKEN") from None
    except HfHubHTTPError as problem:
        raise _refusal(repo, doing, problem, token, again) from None
    except Exception as problem:
        cause = problem.__cause__
        if isinstance(cause, HfHubHTTPError):  # an upload's thread
            raise _refusal(repo, doing, cause, token, again) from None
        names = {type(each).__module__.partition(".")[0] for each in (problem, cause) if each is not None}
        if not names & set(_WIRE) and not isinstance(problem, (OSError, RuntimeError, ValueError)):
            raise
        text = without(one_line(str(problem), 200), token)
        if names & set(_WIRE) or isinstance(problem, ConnectionError):
            text = f"the connection failed ({type(cause or problem).__name__})"
        raise OutputError(f"{repo}: {doing}: {text}{again}") from None


def _refusal(repo: str, doing: str, problem: Any, token: Any, again: str) -> Exception:
    status = getattr(getattr(problem, "response", None), "status_code", None)
    if status == 401:
        return SourceError(f"{repo}: {doing}: the Hub does not know this token (401); log in again (hf auth login)")
    if status == 403:
        return SourceError(
            f"{repo}: {doing}: your token may not do that (403): it needs the right to write there; make one at "
            "https://huggingface.co/settings/tokens, or publish under your own name, or try --create-pr"
        )
    if status == 404:
        return SourceError(f"{repo}: {doing}: not found (404), or your token may not see it")
    if status == 409:
        return OutputError(f"{repo}: {doing}: something else is changing it at this moment (409){again}")
    if status in (412,):
        return OutputError(f"{repo}: {doing}: it was changed in the meantime (412); look at it, then try again")
    if status == 429:
        wait = _retry_after(problem)
        return OutputError(f"{repo}: {doing}: too many requests (429); wait {wait:.0f} s or more{again}")
    if status is not None and status >= 500:
        return OutputError(f"{repo}: {doing}: the Hub has a fault of its own ({status}){again}")
    said = without(one_line(getattr(problem, "server_message", "") or "", 200), token)
    return OutputError(f"{repo}: {doing}: refused ({status}){': ' + said if said else ''}")


def patiently(ask: Callable[[], Result], sleep: Callable[[float], None] = time.sleep) -> Result:
    """Ask; where the Hub says 429, wait as long as it says (`Retry-After`), and ask again."""
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(_PATIENCE + 1):
        try:
            return ask()
        except HfHubHTTPError as problem:
            status = getattr(problem.response, "status_code", None)
            wait = _retry_after(problem)
            if status != 429 or attempt == _PATIENCE or wait > _LONGEST_WAIT:
                raise
            sleep(wait)
    raise AssertionError  # the loop returns or raises


def _retry_after(problem: Any) -> float:
    try:
        return max(0.0, float(problem.response.headers.get("Retry-After", 1)))
    except (ValueError, AttributeError):
        return 1.0


def without(text: str, token: Any) -> str:
    """A text without a token."""
    return text.replace(token, "<token>") if isinstance(token, str) and token else text
