"""Verdicts that were given before: replayed from a file, so that a report can be made again without the judge."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_merge3h.errors import OutputError, RequestError, SourceError, bad

from .judge import Judge
from .verdict import Verdict, unparsed


class PrecomputedJudge(Judge):
    """Verdicts of a JSONL file: `prompt`, `response`, and the fields of a `Verdict`, one line an item.

    Items are found by their texts. What the file does not have is unparsed, and so shows in the parse rate.

    Args:
        path: the file, as `save_verdicts` writes it.
        id: what names the judge in a report; None: what the file's lines say, else the file's name.

    Raises:
        SourceError: no such file.
        RequestError: a line is no JSON object, lacks a text, or contradicts another one; with its number.
    """

    kind = "precomputed"
    batch_size = 1024

    def __init__(self, path: str | os.PathLike[str], *, id: str | None = None) -> None:
        super().__init__()
        file = Path(path)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror or error}; expected a JSONL file of verdicts") from error
        self.verdicts: dict[tuple[str, str], Verdict] = {}
        self.revision = "sha256:" + hashlib.sha256(data).hexdigest()
        named: set[str] = set()
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if line.strip():
                self._add(f"{path}, line {number}", line, named)
        if not self.verdicts:
            raise RequestError(f"{path}: no verdicts in it")
        speaks = ("harmful", "refusal", "hallucinated")
        self.says = tuple(one for one in speaks if any(getattr(v, one) is not None for v in self.verdicts.values()))
        self.id = id or (named.pop() if len(named) == 1 else file.name)

    def _add(self, place: str, line: str, named: set[str]) -> None:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{place}: {error}; expected one JSON object a line") from error
        if not isinstance(record, dict):
            raise bad(place, record, "a JSON object")
        key: Any = record.get("prompt"), record.get("response")
        if not all(isinstance(text, str) for text in key):
            raise bad(place, record, "prompt and response, both text")
        try:
            verdict = Verdict.from_dict(record)
        except RequestError as error:
            raise RequestError(f"{place}: {error}") from error
        if self.verdicts.setdefault(key, verdict) != verdict:
            raise bad(place, key[1], "one verdict a response", "an earlier line judges it differently")
        if isinstance(record.get("judge"), str):
            named.add(record["judge"])

    def _judge(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str | None]
    ) -> list[Verdict]:
        missing = unparsed("", "not in the file")
        return [self.verdicts.get(item, missing) for item in zip(prompts, responses)]


def save_verdicts(
    path: str | os.PathLike[str],
    prompts: Sequence[str],
    responses: Sequence[str],
    verdicts: Sequence[Verdict],
    *,
    judge: str | None = None,
) -> None:
    """Write verdicts for `PrecomputedJudge`, aside and then renamed; an existing file is not overwritten.

    Raises:
        RequestError: lengths differ, or the file exists.
        OutputError: it cannot be written.
    """
    if not len(prompts) == len(responses) == len(verdicts):
        raise bad("verdicts", f"{len(verdicts)} items", f"as many as prompts ({len(prompts)}) and responses")
    file = Path(path)
    if file.exists():
        raise bad("path", str(path), "a file that does not exist yet", "choose another name, or remove it")
    lines = [_line(judge, *item) for item in zip(prompts, responses, verdicts)]
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        aside.write_text("".join(lines), encoding="utf-8")
        aside.replace(file)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}") from error


def _line(judge: str | None, prompt: str, response: str, verdict: Verdict) -> str:
    record: dict[str, Any] = {"prompt": prompt, "response": response, **verdict.to_dict()}
    return json.dumps({"judge": judge, **record} if judge else record, ensure_ascii=False) + "\n"
