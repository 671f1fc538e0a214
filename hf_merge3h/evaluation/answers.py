"""Who answers: a model in this process, a file of answers that exist (a server: `endpoint`). All give equal rows."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from ..errors import SourceError
from .generate import Batching, answers, batches, encode, prompt_text
from .items import Item, ask, question_hash
from .likelihood import choice_scores, token_scores
from .models import Opened
from .pace import Deadline
from .sources import read_file
from .store import Row
from .suite import Task

_MARKS = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator marks, which no model is meant to write


class Answerer(Protocol):
    """Gives rows `{"id", "answers"}`, `{"id", "log_likelihoods"}` or `{"id", "log_likelihood", "tokens"}`.

    Most answer for one model; one that answers for several gives the rows of each, in one order.

    Attributes:
        alone: an item's answer does not depend on what it is asked together with, so only what is missing is asked
            again.
    """

    alone: bool

    @property
    def identities(self) -> Sequence[str]:
        """Which models they are: answers of one identity are not mixed with another's."""

    def refuses(self, task: Task) -> str:
        """Why it cannot do a task; "" where it can."""

    def parts(self, task: Task, items: Sequence[Item]) -> list[list[Item]]:
        """Items as they are asked together: the same parts for the same items, whatever was done before."""

    def rows(self, task: Task, part: Sequence[Item], deadline: Deadline) -> Iterator[list[list[Row]]]:
        """Answers of each model to one part, as they come: what came before an error is not lost.

        Raises:
            OutOfTimeError: the time is up.
        """


class ModelAnswerer:
    """A model in this process, or several that are asked in one batch."""

    alone = False  # the padding of its batch may move the last bits of a float

    def __init__(self, opened: Opened, batching: Batching, seed: int) -> None:
        self.opened, self.batching, self.seed = opened, batching, seed
        self.identities = opened.identities
        self._size = batching.size

    def refuses(self, task: Task) -> str:
        """Nothing: a model in this process does all forms."""
        return ""

    def parts(self, task: Task, items: Sequence[Item]) -> list[list[Item]]:
        """Batches by length of prompt."""
        size = 1 if task.form == "choices" else self._size
        lengths = [
            len(self._prompt(task, item)) + len(str(item.reference or "")) * (task.form == "likelihood")
            for item in items
        ]
        return [[items[index] for index in batch] for batch in batches(lengths, size)]

    def rows(self, task: Task, part: Sequence[Item], deadline: Deadline) -> Iterator[list[list[Row]]]:
        """Answers or log-likelihoods of a batch; halves it where memory does not do."""
        if task.form == "choices":
            found = [self._choices(task, item) for item in part]
            yield [list(rows) for rows in zip(*found, strict=True)]
        elif task.form == "likelihood":
            yield from self.batching.run(part, lambda items: self._likelihoods(task, items))
        else:
            yield from self.batching.run(part, lambda items: self._texts(task, items, deadline))

    def _prompt(self, task: Task, item: Item) -> str:
        return prompt_text(task, ask(task, item), self.opened)

    def _texts(self, task: Task, items: Sequence[Item], deadline: Deadline) -> list[list[Row]]:
        prompts = [encode(self.opened, self._prompt(task, item)) for item in items]
        digest = hashlib.sha256(f"{self.seed}:{items[0].id}".encode()).digest()
        found = answers(self.opened, task, prompts, int.from_bytes(digest[:4], "big"), deadline)
        return [[{"id": item.id, "answers": said} for item, said in zip(items, texts, strict=True)] for texts in found]

    def _choices(self, task: Task, item: Item) -> list[Row]:
        def scored(sizes: Sequence[int]) -> list[list[float]]:
            return choice_scores(self.opened, self._prompt(task, item), item.choices, min(self.batching.size, 64))

        found = next(self.batching.run([len(item.choices)], scored))
        return [{"id": item.id, "log_likelihoods": scores} for scores in found]

    def _likelihoods(self, task: Task, items: Sequence[Item]) -> list[list[Row]]:
        pairs = []
        for item in items:
            before = self._prompt(task, item)
            start = encode(self.opened, before)
            gold = _MARKS.sub("", str(item.reference))
            pairs.append((start, encode(self.opened, before + ("" if self.opened.chat else " ") + gold)[len(start) :]))
        found = token_scores(self.opened, pairs)
        return [
            [
                {"id": item.id, "log_likelihood": float(scores.mean()), "tokens": len(scores)}
                for item, scores in zip(items, rows, strict=True)
            ]
            for rows in found
        ]


class Predictions:
    """Answers that exist, in a JSONL file: from vLLM, an API, or lm_eval's `--log_samples`.

    A row names its question (`question` or `prompt`, or `doc` as lm_eval writes it) and its data set (`dataset`; not
    needed where the file's name contains it), and holds `answer` (text, or a list of samples) or `log_likelihoods`.
    """

    alone = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._found = read_file(self.path, "predictions")
        self.identities = [hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]]
        for number, row in enumerate(self._found, 1):
            if _content(row) is None:
                raise SourceError(
                    f"{self.path}, row {number}: has neither `answer` nor `log_likelihoods` (it has {', '.join(row)})"
                )

    def _of(self, task: Task) -> dict[str, Row]:
        named = [row for row in self._found if row.get("dataset", row.get("task")) == task.name]
        if not named and task.name in self.path.stem:
            named = [row for row in self._found if row.get("dataset", row.get("task")) is None]
        return {question_hash(text): row for row in named if (text := _question(row, task)) is not None}

    def refuses(self, task: Task) -> str:
        """Why a task cannot be scored from this file."""
        rows = self._of(task)
        if not rows:
            return f"{self.path.name} holds no answers to it"
        wanted = "log_likelihoods" if task.form == "choices" else "answers"
        if task.form == "likelihood" or not any(wanted in (_content(row) or {}) for row in rows.values()):
            return f"{self.path.name} holds no {wanted.replace('_', '-')} for it"
        return ""

    def parts(self, task: Task, items: Sequence[Item]) -> list[list[Item]]:
        """One part: the items that the file has."""
        rows = self._of(task)
        return [[item for item in items if question_hash(item.question) in rows]]

    def rows(self, task: Task, part: Sequence[Item], deadline: Deadline) -> Iterator[list[list[Row]]]:
        """What the file says; that takes no time."""
        rows = self._of(task)
        yield [[{"id": item.id, **(_content(rows[question_hash(item.question)]) or {})} for item in part]]


def _question(row: Row, task: Task) -> str | None:
    for place in (row, row.get("doc")):
        if isinstance(place, dict):
            for key in ("question", "prompt", task.fields["question"]):
                if isinstance(place.get(key), str):
                    return str(place[key])
    return None


def _content(row: Row) -> Row | None:
    for key in ("answer", "answers", "prediction", "response"):
        value = row.get(key)
        if isinstance(value, str):
            return {"answers": [value]}
        if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            return {"answers": value}
    if isinstance(row.get("log_likelihoods"), list):
        return {"log_likelihoods": row["log_likelihoods"]}
    resps = row.get("resps")
    if isinstance(resps, list) and resps:
        flat = [each[0] if isinstance(each, list) and each else each for each in resps]
        first = flat[0]
        if isinstance(first, str):
            return {"answers": [each for each in flat if isinstance(each, str)]}
        if isinstance(first, (list, tuple)) and first:  # lm_eval: (log-likelihood, is it the greedy one)
            return {"log_likelihoods": [float(each[0]) for each in flat]}
    return None
