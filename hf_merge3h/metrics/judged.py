"""Rates that somebody has to judge: harm and hallucination. Without a judge there is no rate.

An answer whose verdict could not be read is neither good nor bad: the rate is over the verdicts that could be read,
and the bounds say what it would be if all the others were the one or the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import MergeError, bad
from .checks import Items, mean, pair, texts

Judge = Callable[..., Sequence[Any]]
_NEED = "a judge, see hf_merge3h.judges"


def score_safety(predictions: Any, references: Any, *, judge: Judge | None = None) -> Items:
    """Whether each answer is harmful, by the judge; see `ask`."""
    return ask(predictions, references, judge=judge, field="harmful")


def summarise_safety(items: Items) -> dict[str, float]:
    """Share of harmless answers, with bounds."""
    return share(items, field="harmful", rate="safety_rate", of=False)


def score_hallucination(predictions: Any, references: Any, *, judge: Judge | None = None) -> Items:
    """Whether each answer is made up, by the judge; see `ask`."""
    return ask(predictions, references, judge=judge, field="hallucinated")


def summarise_hallucination(items: Items) -> dict[str, float]:
    """Share of answers that are made up, with bounds."""
    return share(items, field="hallucinated", rate="hallucination_rate", of=True)


def ask(predictions: Any, references: Any, *, judge: Judge | None, field: str) -> Items:
    """Ask the judge about all answers at once.

    Args:
        predictions: answers.
        references: for each answer its prompt, or a dict with `prompt` and `reference` (a right answer).
        judge: called as `judge(prompts, answers, references)`; gives one verdict an answer.
        field: what is asked of a verdict: "harmful" or "hallucinated".

    Returns:
        One dict an answer: the field (True, False, or None where the verdict could not be read) and `verdict`, all that
        the judge said.

    Raises:
        RequestError: no judge, one that does not speak of the field, or items that are no text.
        MergeError: the judge failed, or did not give one verdict an answer.
    """
    if judge is None or not callable(judge):
        raise bad("judge", judge, _NEED, "no rule can tell; leave the metric out, and it is named as not evaluated")
    if not speaks_of(judge, field):
        name = str(getattr(judge, "id", judge))
        raise bad("judge", name, f"one that says what is {field}", f"this one does not say it, but {_listed(judge)}")
    predictions, references = pair(predictions, references, "answers as text", "prompts")
    texts("predictions", predictions)
    prompts, known = _questions(references)
    try:
        verdicts = list(judge(prompts, predictions, known))
    except MergeError:
        raise
    except Exception as error:
        raise MergeError(f"the judge failed on {len(prompts)} answers: {type(error).__name__}: {error}") from error
    if len(verdicts) != len(prompts):
        raise MergeError(f"the judge gave {len(verdicts)} verdicts for {len(prompts)} answers: expected one each")
    return [_item(verdict, field) for verdict in verdicts]


def speaks_of(judge: Any, field: str) -> bool:
    """Whether a judge speaks of harm, or of hallucination, as far as it tells that before it is asked."""
    says = getattr(judge, "says", None)
    return says is None or field in says


def _listed(judge: Any) -> str:
    return "what is " + " and ".join(judge.says) if judge.says else "neither harm, refusal nor hallucination"


def share(items: Items, *, field: str, rate: str, of: bool) -> dict[str, float]:
    """The share of verdicts in which the field is `of`, with its bounds; absent where no verdict could be read."""
    read = [item[field] == of for item in items if item[field] is not None]
    summary = {rate: mean(read)} if read else {}
    return summary | {
        "parse_rate": len(read) / len(items),
        f"{rate}_lower": sum(read) / len(items),
        f"{rate}_upper": (sum(read) + len(items) - len(read)) / len(items),
    }


def _questions(references: list[Any]) -> tuple[list[str], list[str] | None]:
    """Prompts, and right answers where every item has one."""
    prompts, answers = [], []
    for index, reference in enumerate(references):
        if isinstance(reference, str):
            prompts.append(reference)
        elif isinstance(reference, Mapping) and isinstance(reference.get("prompt"), str):
            prompts.append(reference["prompt"])
            if isinstance(reference.get("reference"), str):
                answers.append(reference["reference"])
        else:
            raise bad(f"references[{index}]", reference, "a prompt, or a dict with `prompt` and `reference`")
    if answers and len(answers) != len(prompts):
        raise bad(
            "references", f"{len(answers)} of {len(prompts)} with `reference`", "a right answer in all or in none"
        )
    return prompts, answers or None


def _item(verdict: Any, field: str) -> dict[str, Any]:
    said = verdict.to_dict() if hasattr(verdict, "to_dict") else dict(vars(verdict))
    value = said.get(field) if said.get("parsed") is not False else None
    if value is not None and not isinstance(value, bool):
        raise MergeError(f"the judge's verdict says {field}={value!r}: expected True, False or None")
    return {field: value, "verdict": said}
