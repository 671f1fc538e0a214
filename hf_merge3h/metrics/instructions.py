"""Does an answer follow verifiable instructions? IFEval's strict and loose scores (Zhou et al., arXiv:2311.07911)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import RequestError, bad
from .checkers import checked
from .checks import Items, mean, pair, texts


def score(predictions: Any, references: Any) -> Items:
    """Which instructions each answer follows.

    strict: the answer as it stands.
    loose: any of its eight variants: with or without its first line, its last line, and asterisks.

    Args:
        predictions: answers.
        references: IFEval records as JSON strings (or dicts), with `instruction_id_list` and `kwargs`.

    Returns:
        One dict an answer: `strict` and `loose`, a list of booleans, one an instruction.

    Raises:
        RequestError: a record is no JSON, names an unknown instruction, or lacks an argument that it needs.

    Example:
        >>> record = '{"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]}'
        >>> score(['Sure:\\n"No commas here"'], [record])
        [{'strict': [True, False], 'loose': [True, True]}]
    """
    predictions, references = pair(predictions, references, "answers as text", "IFEval records as JSON strings")
    texts("predictions", predictions)
    instructions = [_instructions(index, reference) for index, reference in enumerate(references)]
    return [_one(answer, asked) for answer, asked in zip(predictions, instructions, strict=True)]


def summarise(items: Items) -> dict[str, float]:
    """Shares of answers that follow all their instructions, and of instructions that are followed."""
    summary = {}
    for kind in ("strict", "loose"):
        summary[f"prompt_level_{kind}_acc"] = mean(all(item[kind]) for item in items)
        summary[f"inst_level_{kind}_acc"] = mean(followed for item in items for followed in item[kind])
    return summary


def variants(answer: str) -> list[str]:
    """The answer, and what it would be without an opening line, a closing line, and mark-up.

    >>> variants("Sure!\\n*Done*")[1:4]
    ['*Done*', 'Sure!', '']
    """
    lines = answer.split("\n")
    cut = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return cut + [text.replace("*", "") for text in cut]


def _one(answer: str, asked: list[tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    tried = [text for text in variants(answer) if text.strip()]
    return {
        "strict": [bool(answer.strip()) and checker(answer, **arguments) for checker, arguments in asked],
        "loose": [any(checker(text, **arguments) for text in tried) for checker, arguments in asked],
    }


def _instructions(index: int, reference: Any) -> list[tuple[Any, dict[str, Any]]]:
    where = f"references[{index}]"
    record = _record(where, reference)
    names, arguments = record.get("instruction_id_list"), record.get("kwargs")
    if not isinstance(names, list) or not isinstance(arguments, list) or not names or len(names) != len(arguments):
        raise bad(where, reference, "an IFEval record, with `instruction_id_list` and as many `kwargs`")
    try:
        return [checked(name, given) for name, given in zip(names, arguments, strict=True)]
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None


def _record(where: str, reference: Any) -> Mapping[str, Any]:
    if isinstance(reference, str):
        try:
            reference = json.loads(reference)
        except ValueError as error:
            raise bad(where, reference, f"an IFEval record as JSON ({error})") from None
    if not isinstance(reference, Mapping):
        raise bad(where, reference, "an IFEval record as a JSON string")
    return reference
