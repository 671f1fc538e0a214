"""What tasks of lm-evaluation-harness call that `export` wrote: our metrics, one document at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..metrics import get
from .items import make_items
from .scoring import score_items
from .sources import matches
from .suite import read_suite

#: figures of a metric that are means over items
FIGURES = {
    "math_accuracy": ("accuracy", "accuracy_strict", "accuracy_flexible", "parse_rate"),
    "truthful_choice": ("mc1", "mc2"),
    "refusal_rate": ("refusal_rate", "refusal_rate_strmatch"),
    "code_pass_at_k": ("pass@1",),
}
Document = Mapping[str, Any]


def functions(
    suite: str | Path, name: str
) -> tuple[Callable[[Any], Any], Callable[[Document, Sequence[Any]], dict[str, float]]]:
    """For one data set: which documents are taken, and what is scored of an answer to one.

    Args:
        suite: the suite's file.
        name: the data set.
    """
    task = read_suite(suite).tasks[name]

    def keep(documents: Any) -> Any:
        return documents.filter(lambda document: matches(task, document))

    def score(document: Document, results: Sequence[Any]) -> dict[str, float]:
        (item,) = make_items(task, [document])
        if task.form == "choices":
            row: dict[str, Any] = {"log_likelihoods": [float(likelihood) for likelihood, _ in results]}
        else:
            row = {"answers": [text for each in results for text in ([each] if isinstance(each, str) else each)]}
        told = get(task.metric).summarise(score_items(task, [item], [{"id": item.id, **row}]))
        return {key: float(told[key]) for key in {task.key, *FIGURES[task.metric]} if key in told}

    return keep, score
