"""Rows of a training set, whatever its columns are called, as a prompt and a response."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import Problems, RequestError, bad, show

if TYPE_CHECKING:
    from datasets import Dataset

Turns = list[dict[str, str]]

#: Names that columns go by, in pairs of prompt and response: TRL's own, then those of well-known sets.
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "chosen"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
)


@dataclass(frozen=True)
class Example:
    """One training example.

    Attributes:
        source: name of the set that it comes from.
        row: its row there.
        prompt: the turns before the answer.
        response: the answer.
    """

    source: str
    row: int
    prompt: tuple[tuple[str, str], ...]
    response: str

    @property
    def question(self) -> str:
        """The text of the prompt's turns, one below the other."""
        return "\n".join(text for _, text in self.prompt)

    @property
    def text(self) -> str:
        """Prompt and response as one text."""
        return f"{self.question}\n{self.response}"

    @property
    def turns(self) -> Turns:
        """The prompt as a chat template takes it."""
        return [{"role": role, "content": text} for role, text in self.prompt]

    def as_row(self) -> dict[str, Any]:
        """The row of the mixed set: TRL's conversational prompt-completion form, with where it came from."""
        answer = [{"role": "assistant", "content": self.response}]
        return {"prompt": self.turns, "completion": answer, "source": self.source, "source_row": self.row}


def read_sets(datasets: Mapping[str, Dataset], columns: Mapping[str, str] | None = None) -> dict[str, list[Example]]:
    """Read every set, and say of all at once what cannot be read.

    Args:
        datasets: name -> set.
        columns: {"prompt": name, "response": name} where they are called otherwise, or {"messages": name}.

    Raises:
        RequestError: a set is empty or has no columns that can be read.
    """
    problems = Problems("datasets: not every set can be read")
    found = {}
    for name, dataset in datasets.items():
        try:
            found[name] = list(_read(name, dataset, columns))
        except RequestError as problem:
            problems.add(str(problem))
    problems.raise_any()
    return found


def _read(name: str, dataset: Dataset, columns: Mapping[str, str] | None) -> Iterable[Example]:
    where = f"datasets[{name!r}]"
    have = getattr(dataset, "column_names", None)
    if not isinstance(have, list):
        hint = "choose a split: dataset['train']" if isinstance(dataset, Mapping) else "see Dataset.from_list"
        raise bad(where, type(dataset).__name__, "a datasets.Dataset", hint)
    if len(dataset) == 0:
        raise bad(where, "0 rows", "at least one row")
    names = _columns(where, have, columns)
    for row, record in enumerate(dataset):
        if len(names) == 1:
            yield _of_messages(name, row, record[names[0]])
        else:
            prompt, response = record[names[0]], record[names[1]]
            yield _of_messages(name, row, [*_as_turns(prompt, "user"), *_as_turns(response, "assistant")])


def _columns(where: str, have: list[str], columns: Mapping[str, str] | None) -> tuple[str, ...]:
    if columns is not None:
        keys = ("messages",) if "messages" in columns else ("prompt", "response")
        if set(columns) != set(keys):
            raise bad("columns", dict(columns), "{'prompt': ..., 'response': ...} or {'messages': ...}")
        missing = [columns[key] for key in keys if columns[key] not in have]
        if missing:
            raise bad(where, have, f"the columns {', '.join(missing)}", "see `columns`")
        return tuple(columns[key] for key in keys)
    if "messages" in have:
        return ("messages",)
    for pair in _PAIRS:
        if set(pair) <= set(have):
            return pair
    pairs = ", ".join(" and ".join(pair) for pair in _PAIRS)
    raise bad(where, have, f"a column messages, or two: {pairs}", "name them: columns={'prompt': ..., 'response': ...}")


def _as_turns(value: Any, role: str) -> Any:
    return [{"role": role, "content": value}] if isinstance(value, str) or value is None else value


def _of_messages(source: str, row: int, messages: Any) -> Example:
    """The last turn is the answer, as it must be the assistant's; an empty one is left to the cleaning."""
    where = f"datasets[{source!r}][{row}]"
    try:
        turns = [(str(turn["role"]), turn["content"] or "") for turn in messages]
    except (TypeError, KeyError):
        raise bad(where, messages, "turns with role and content, or text") from None
    if len(turns) < 2 or turns[-1][0] != "assistant" or not all(isinstance(text, str) for _, text in turns):
        shown = show([role for role, _ in turns])
        raise RequestError(f"{where}: turns of {shown}: expected text, with the assistant's answer as the last turn")
    return Example(source, row, tuple(turns[:-1]), turns[-1][1])
