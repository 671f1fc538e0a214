"""From records to items: what a model is asked, and what its answer is compared with."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import SourceError, bad, show
from .suite import Task

#: what a program may import without saying so: MBPP's and HumanEval's own solutions do
_CODE_FENCE = "```"


#: File beside a model or adapter that holds hashes of the questions that it was trained on.
TRAINED = "training_questions.json"


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: hash of the task's name and the question's text, and a count where a question comes twice.
        question: as it stands in the data.
        reference: what a metric compares with: text, labels, or tests.
        choices: of a multiple choice.
        extra: further parts, by form.
    """

    id: str
    question: str
    reference: Any = None
    choices: tuple[str, ...] = ()
    extra: Mapping[str, Any] | None = None


def question_hash(text: str) -> str:
    """Hash of a question as `TRAINED` beside an adapter has it.

    NFKC, lower case, every run of other characters than letters and digits one space; SHA-256.

    >>> question_hash("Why?  So.") == question_hash("why so")
    True
    """
    kept = "".join(one if one.isalnum() else " " for one in unicodedata.normalize("NFKC", text).lower())
    return hashlib.sha256(" ".join(kept.split()).encode()).hexdigest()


def make_items(task: Task, records: Iterable[Mapping[str, Any]]) -> list[Item]:
    """Items of all records, in their order.

    Raises:
        SourceError: a record lacks a part; names the record and what it has.
    """
    items: list[Item] = []
    seen: dict[str, int] = {}
    for index, record in enumerate(records):
        question = _text(task, record, "question", index)
        digest = hashlib.sha256(f"{task.name}\n{question}".encode()).hexdigest()[:16]
        seen[digest] = seen.get(digest, 0) + 1
        name = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        items.append(_MAKERS[task.form](task, record, index, name, question))
    return items


def select(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """The first `limit` items in an order that the seed gives; a larger limit adds items and drops none."""
    order = sorted(items, key=lambda item: hashlib.sha256(f"{seed}:{item.id}".encode()).digest())
    return order if limit is None else order[:limit]


def _field(task: Task, record: Mapping[str, Any], name: str, index: int) -> Any:
    path = task.fields.get(name)
    if path is None:
        raise SourceError(f"{task.name}.fields: lacks `{name}`, which the form {task.form} needs")
    value: Any = record
    for part in str(path).split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise SourceError(
                f"{task.name}: record {index} has no `{path}` (it has {', '.join(map(str, record))}); is this the "
                "right file, or do the suite's `fields` need other names?"
            )
        value = value[part]
    return value


def _text(task: Task, record: Mapping[str, Any], name: str, index: int) -> str:
    value = _field(task, record, name, index)
    if not isinstance(value, str) or not value.strip():
        raise SourceError(f"{task.name}: record {index} has {task.fields[name]}={show(value)}: expected text")
    return value


def _generate(task: Task, record: Mapping[str, Any], index: int, name: str, question: str) -> Item:
    reference: Any = task.label
    if task.metric == "instruction_following":
        reference = json.dumps(dict(record), ensure_ascii=False)
    elif "label" in task.fields:
        reference = _text(task, record, "label", index)
    elif task.label is None:
        reference = _text(task, record, "reference", index)
    return Item(name, question, reference)


def _judged(task: Task, record: Mapping[str, Any], index: int, name: str, question: str) -> Item:
    if "reference" not in task.fields:
        return Item(name, question, question)
    return Item(name, question, {"prompt": question, "reference": _text(task, record, "reference", index)})


def _choices(task: Task, record: Mapping[str, Any], index: int, name: str, question: str) -> Item:
    """Choices as {text: label}, as {choices: [...], labels: [...]}, or as a list with one right index."""
    value = _field(task, record, "choices", index)
    if isinstance(value, Mapping) and "choices" in value and "labels" in value:
        choices, labels = list(value["choices"]), list(value["labels"])
    elif isinstance(value, Mapping):
        choices, labels = list(value), list(value.values())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        right = _field(task, record, "right", index)
        choices, labels = list(value), [int(place == right) for place in range(len(value))]
    else:
        raise SourceError(f"{task.name}: record {index} has choices {show(value)}: expected a list or a mapping")
    kept = [(str(choice), label) for choice, label in zip(choices, labels, strict=True) if str(choice).strip()]
    if len(kept) < 2 or not any(label == 1 for _, label in kept):
        raise SourceError(f"{task.name}: record {index} has no two choices with a right one among them: {show(value)}")
    return Item(name, question, [int(label) for _, label in kept], tuple(choice for choice, _ in kept))


def _likelihood(task: Task, record: Mapping[str, Any], index: int, name: str, question: str) -> Item:
    return Item(name, question, _text(task, record, "reference", index))


def _code(task: Task, record: Mapping[str, Any], index: int, name: str, question: str) -> Item:
    if "entry_point" in task.fields:  # HumanEval: a function to complete, and check(candidate)
        entry = _text(task, record, "entry_point", index)
        tests = f"{_text(task, record, 'tests', index)}\n\ncheck({entry})\n"
        return Item(name, question, tests, extra={"start": question})
    tests = _field(task, record, "tests", index)
    listed = [tests] if isinstance(tests, str) else list(tests)
    setup = str(_field(task, record, "setup", index) or "") if "setup" in task.fields else ""
    shown = listed[0] if listed else ""
    return Item(name, question, "\n".join([setup, *listed]), extra={"example": shown})


_MAKERS = {"generate": _generate, "judged": _judged, "choices": _choices, "likelihood": _likelihood, "code": _code}


def ask(task: Task, item: Item) -> str:
    """The question as it is put to a model.

    Raises:
        RequestError: the suite's prompt has a place for something that the item does not have.
    """
    parts = {"question": item.question, **(item.extra or {})}
    try:
        return task.prompt.format_map(parts)
    except (KeyError, IndexError, ValueError) as error:
        raise bad(f"{task.name}.prompt", task.prompt, f"places for {', '.join(parts)}", f"not {error}") from None


def asked_hash(task: Task, item: Item) -> str:
    """Hash of what a model is asked about an item: where it differs, an answer is one to something else."""
    gold = item.reference if task.form == "likelihood" else None
    told = json.dumps([ask(task, item), item.choices, gold], ensure_ascii=False)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def program(answer: str, start: str = "") -> str:
    """The program in an answer: the first fenced block where there is one, else all of it.

    Args:
        answer: what the model said.
        start: the beginning of a function that was to be completed; put before an answer that does not repeat it.

    >>> program("Here:\\n```python\\ndef f(): return 1\\n```\\nDone.")
    'def f(): return 1\\n'
    >>> program("    return 1", "def f():\\n")
    'def f():\\n    return 1'
    """
    parts = answer.split(_CODE_FENCE)
    code = parts[1].partition("\n")[2] if len(parts) > 1 else answer
    signature = next((line for line in reversed(start.splitlines()) if line.startswith("def ")), None)
    if not start or (signature is not None and signature.partition("(")[0] in code):
        imports = "".join(f"{line}\n" for line in start.splitlines() if line.startswith(("import ", "from ")))
        return imports + code
    return start + code
