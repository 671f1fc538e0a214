"""One place on the Hub: how it is asked, and in what words its refusals reach a user. A token is never among them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestError, SourceError, wrong
from .cards import FILE as MODEL_CARD


@dataclass(frozen=True)
class Where:
    """A place on the Hub, and how to ask for it."""

    repo: str
    revision: str | None
    subfolder: str
    options: dict[str, Any]

    def __repr__(self) -> str:  # never the token
        below = f" (subfolder {self.subfolder})" if self.subfolder else ""
        return f"{self.repo}{f'@{self.revision}' if self.revision else ''}{below}"

    def refused(self, reason: str) -> RequestError:
        """The error that says why nothing can be had from here."""
        return wrong("source", repr(self), reason, SourceError)


def snapshot(where: Where, revision: str | None, names: tuple[str, ...], *, bar: bool = False) -> Path:
    """The folder in the cache with these files of a place, as far as it has them; fetched where they are not there.

    Args:
        where: the place.
        revision: of it.
        names: of the files.
        bar: show the Hub's progress bars: for weights. Small files come and go in a moment.
    """
    from huggingface_hub import snapshot_download

    patterns = [f"{where.subfolder}/{name}" if where.subfolder else name for name in names]
    if where.subfolder and MODEL_CARD in names:
        patterns.append(MODEL_CARD)  # of a folder that has none, the repository's
    told = None if bar else no_bar()
    with _no_word_of_missing_files():
        found = snapshot_download(
            where.repo, revision=revision, allow_patterns=patterns, tqdm_class=told, **where.options
        )
    return Path(found)


@functools.cache
def no_bar() -> Any:
    """A class of bars that show nothing; unlike the Hub's own switch, it is nobody else's."""
    from huggingface_hub.utils import tqdm

    class NoBar(tqdm):  # type: ignore[misc, valid-type, unused-ignore]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})

    return NoBar


@contextmanager
def _no_word_of_missing_files() -> Iterator[None]:
    """Without the Hub's warning that none of the files is there: whoever asks tells what is missing, if it matters."""

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No files matched")

    logger = logging.getLogger("huggingface_hub._snapshot_download")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


@contextmanager
def one_line(where: Where) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line that says what to do; a token is never in it."""
    from huggingface_hub import errors

    try:
        yield
    except SourceError:
        raise
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.LocalTokenNotFoundError) as problem:
        raise _explain(where, problem) from None
    except (OSError, ValueError) as problem:  # no space, no right to write, a proxy
        text = _without_token(str(problem).strip().partition("\n")[0], where)
        raise where.refused(f"cannot be downloaded: {text or type(problem).__name__}") from None
    except Exception as problem:
        if type(problem).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "hf_xet", "requests"):
            raise
        raise where.refused(_unreachable(type(problem).__name__)) from None


def _explain(where: Where, problem: BaseException) -> RequestError:
    from huggingface_hub import errors

    # "Not found locally" wraps what went wrong on the Hub.
    cause = problem.__cause__ if isinstance(problem, errors.LocalEntryNotFoundError) else problem
    page = f"https://huggingface.co/{where.repo}"
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(cause, errors.GatedRepoError):
        reason = (
            f"gated: accept its licence at {page} with your account, then log in (hf auth login) or pass token=; "
            "a token of another account, or without the right to read gated repositories, does not help"
        )
    elif isinstance(cause, errors.DisabledRepoError):
        reason = "disabled by the Hub"
    elif isinstance(cause, errors.RevisionNotFoundError):
        reason = f"no revision {where.revision or 'main'!r} there; see {page}/commits/main for what there is"
    elif isinstance(cause, errors.LocalTokenNotFoundError):
        reason = "token=True, and no token is stored on this machine; hf auth login stores one"
    elif isinstance(cause, errors.RepositoryNotFoundError) or status in (401, 404):
        reason = (
            f"no such model on the Hub, or a private one that your token does not open ({page}); check the spelling, "
            "or log in (hf auth login) or pass token="
        )
    elif status == 403:
        reason = f"the Hub refuses access (403); log in with an account that may read {page}, or pass its token="
    elif status is not None:
        reason = f"the Hub answers with an error ({status}); try again later"
    elif where.options["local_files_only"]:
        reason = "not (wholly) in the cache on this machine, and local_files_only=True forbids downloading it"
    elif isinstance(cause, errors.OfflineModeIsEnabled) or cause is None:
        reason = "not (wholly) in the cache on this machine, and HF_HUB_OFFLINE forbids downloading it"
    else:
        reason = _unreachable(type(cause).__name__)
    return where.refused(reason)


def _unreachable(why: str) -> str:
    from huggingface_hub import constants

    endpoint = constants.ENDPOINT.rpartition("@")[2]  # an endpoint may hold a password
    return (
        f"the Hub ({endpoint}) cannot be reached ({why}), and the files are not in the cache on this machine; check "
        "the network, or give a local folder"
    )


def _without_token(text: str, where: Where) -> str:
    token = where.options["token"]
    return text.replace(token, "<token>") if isinstance(token, str) and token else text
