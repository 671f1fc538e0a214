"""A server that answers: OpenAI's protocol of chat completions, which vLLM, llama.cpp, TGI and others speak."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ..errors import MergeError, bad, show
from .items import Item, ask
from .pace import Deadline, OutOfTimeError
from .store import Row
from .suite import Task

_TRIES = 4
_LONGEST = 60.0  # seconds between two tries, whatever a server asks for


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server: `url` as far as `/v1`. A key is read from the environment, and shown nowhere.

    Attributes:
        url: http(s) address.
        model: what the server calls it.
        key_variable: environment variable that holds the key.
        workers: requests at a time.
        timeout: seconds one request may take.
        pause: seconds before a request that failed is sent again; doubled each time, or what the server asks for.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    workers: int = 8
    timeout: float = 300.0
    pause: float = 1.0

    alone = True

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
            raise bad(
                "endpoint", parts.scheme, "http(s)://HOST/v1, without a password", "put a key into OPENAI_API_KEY"
            )

    @property
    def identities(self) -> list[str]:
        """Which server and model; the server may change the model without a word."""
        return [hashlib.sha256(f"{self.url} {self.model}".encode()).hexdigest()[:16]]

    def refuses(self, task: Task) -> str:
        """Chat servers give no log-likelihoods of texts that are not theirs."""
        return "a chat server gives no log-likelihoods" if task.form in ("choices", "likelihood") else ""

    def parts(self, task: Task, items: Sequence[Item]) -> list[list[Item]]:
        """All at once: a slow answer keeps no others waiting."""
        return [list(items)]

    def rows(self, task: Task, part: Sequence[Item], deadline: Deadline) -> Iterator[list[list[Row]]]:
        """What the server answers, in the order in which it does.

        Raises:
            MergeError: a request failed for good; after the answers that were on their way.
            OutOfTimeError: the time is up; what is on its way is not waited for.
        """
        failed: Exception | None = None
        pool = ThreadPoolExecutor(self.workers)
        try:
            asked = {pool.submit(self._ask, task, ask(task, item)): item for item in part}
            for done in as_completed(asked, deadline.left if math.isfinite(deadline.left) else None):
                if done.cancelled():
                    continue
                try:
                    row = {"id": asked[done].id, "answers": done.result()}
                except MergeError as error:
                    failed = failed or error
                    for other in asked:
                        other.cancel()
                else:
                    yield [[row]]
        except TimeoutError:
            raise OutOfTimeError from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if failed is not None:
            raise failed

    def _ask(self, task: Task, question: str) -> list[str]:
        wanted = task.samples if task.temperature > 0 else 1
        texts: list[str] = []
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": task.max_new_tokens,
            "temperature": task.temperature,
        }
        while len(texts) < wanted:  # some servers give one choice, whatever `n` is
            rest = wanted - len(texts)
            told = self._post(json.dumps(body | ({"n": rest} if rest > 1 else {})).encode())
            try:
                found = [choice["message"]["content"] or "" for choice in told["choices"]]
            except (KeyError, TypeError):
                found = []
            if not found:
                raise MergeError(f"{self.url}: its answer holds no choices: {show(told)}")
            texts += found[:rest]
        return texts

    def _post(self, body: bytes) -> Any:
        key = os.environ.get(self.key_variable)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        for attempt in range(_TRIES):
            wait = self.pause * 2**attempt
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                said, final = f"status {error.code}{_reason(error, key)}", error.code < 500 and error.code != 429
                asked = error.headers.get("Retry-After", "")
                wait = max(wait, float(asked)) if asked.isdigit() else wait
            except (OSError, ValueError) as error:
                said, final = f"{type(error).__name__}: {getattr(error, 'reason', error)}", False
            if final or attempt == _TRIES - 1:
                break
            time.sleep(min(wait, _LONGEST))
        raise MergeError(f"{self.url}: {said}; finished items are kept, and the same call goes on with the rest")


def _reason(error: urllib.error.HTTPError, key: str | None) -> str:
    """What the server says of its refusal, in short, and without the key that it may repeat."""
    try:
        said = error.read(2000).decode(errors="replace").strip()
    except OSError:
        return ""
    said = said.replace(key, "***") if key else said
    return f" ({show(said[:200])})" if said else ""
