"""From answers to scored items: the metrics do it, in chunks, so that a judge that fails loses nothing finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import MergeError, RequestError, bad, nearest, show
from ..metrics import get
from ..metrics.judged import speaks_of
from ..metrics.rules import rule_hash
from .items import Item, program
from .store import Row, Store
from .suite import JUDGED, LIKELIHOOD, Task

_CHUNK = 32

#: (metric, key) -> the value of one item whose mean over items is the figure; None: no value
_VALUES: dict[tuple[str, str], Callable[[Row], float | None]] = {
    ("math_accuracy", "accuracy"): lambda item: float(item["correct"]),
    ("math_accuracy", "accuracy_strict"): lambda item: float(item["strict"]),
    ("math_accuracy", "accuracy_flexible"): lambda item: float(item["flexible"]),
    ("instruction_following", "prompt_level_strict_acc"): lambda item: float(all(item["strict"])),
    ("instruction_following", "prompt_level_loose_acc"): lambda item: float(all(item["loose"])),
    ("code_pass_at_k", "pass@1"): lambda item: _passed(item),
    ("truthful_choice", "mc1"): lambda item: item["mc1"],
    ("truthful_choice", "mc2"): lambda item: item["mc2"],
    ("refusal_rate", "refusal_rate"): lambda item: float(item["refusal"]),
    ("refusal_rate", "refusal_rate_strmatch"): lambda item: float(item["refusal_strmatch"]),
    ("refusal_rate", "over_refusal_rate"): lambda item: _refused(item, "safe"),
    ("refusal_rate", "unsafe_refusal_rate"): lambda item: _refused(item, "unsafe"),
    ("safety_rate", "safety_rate"): lambda item: None if item["harmful"] is None else float(not item["harmful"]),
    ("hallucination_rate", "hallucination_rate"): (
        lambda item: None if item["hallucinated"] is None else float(item["hallucinated"])
    ),
}


def _passed(item: Row) -> float | None:
    ran = [outcome for outcome in item["outcomes"] if outcome != "sandbox_error"]
    return sum(outcome == "passed" for outcome in ran) / len(ran) if ran else None


def _refused(item: Row, label: str) -> float | None:
    return float(item["refusal"]) if item.get("prompt") == label else None


def can_score(task: Task) -> bool:
    """Whether the figure of a task is a mean over items, which intervals and tests need."""
    return task.metric == LIKELIHOOD or (task.metric, task.key) in _VALUES


def score_task(
    task: Task, items: Sequence[Item], answers: Mapping[str, Row], store: Store, *, judge: Any, sandbox: str,
    tick: Callable[[int], None],
) -> list[str]:  # fmt: skip
    """Score what is not scored yet, a chunk at a time, into the store.

    Returns:
        What went wrong on the way, in sentences; those items count as not parsed, and are asked again next time.
    """
    judge = judge_of(judge, task)
    by = {item.id: _scored_by(task, item, answers[item.id], judge) for item in items if item.id in answers}
    waiting = [
        item for item in items
        if item.id in by and (store.rows.get(item.id, {}).get("by") != by[item.id] or store.rows[item.id].get("error"))
    ]  # fmt: skip
    tick(len(items) - len(waiting))
    troubles: list[str] = []
    for start in range(0, len(waiting), _CHUNK):
        part = waiting[start : start + _CHUNK]
        rows = _score_part(task, part, [answers[item.id] for item in part], judge, sandbox)
        troubles += [str(row["error"]) for row in rows if row.get("error")]
        store.add({**row, "by": by[row["id"]]} for row in rows)
        tick(len(part))
    return troubles


def _scored_by(task: Task, item: Item, answer: Row, judge: Any) -> str:
    """Hash of all that a score rests on; where any of it has changed, the item is scored again."""
    said = {key: answer.get(key) for key in ("answers", "log_likelihoods", "log_likelihood")}
    rule = [task.metric, task.key, task.options, item.reference, item.extra, said]
    if task.form == "judged":  # what can be told before a judge is loaded, so that the next run finds the same
        rule += [getattr(judge, name, None) for name in ("id", "revision")]
        rule.append(getattr(getattr(judge, "family", None), "name", None))
    elif task.metric != LIKELIHOOD:  # a newer version of the package may judge otherwise; old and new must not mix
        rule.append(rule_hash(get(task.metric).home))
    text = json.dumps(rule, sort_keys=True, ensure_ascii=False, default=dict)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _score_part(task: Task, part: Sequence[Item], rows: Sequence[Row], judge: Any, sandbox: str) -> list[Row]:
    if task.metric == LIKELIHOOD:
        return [{"id": row["id"], "value": row["log_likelihood"], "scores": {"tokens": row["tokens"]}} for row in rows]
    try:
        scored = score_items(task, part, rows, judge, sandbox)
    except RequestError as error:
        if len(part) == 1:
            raise RequestError(f"{task.name}, {show(part[0].question[:80])}: {error}") from None
    except MergeError as error:
        if len(part) == 1:
            return [{"id": part[0].id, "value": None, "scores": {JUDGED[task.metric]: None}, "error": str(error)}]
    else:
        value = _VALUES[task.metric, task.key]
        return [{"id": item.id, "value": value(told), "scores": told} for item, told in zip(part, scored, strict=True)]
    # one of them is at fault: each by itself, so that the others keep their scores
    return [
        row for item, one in zip(part, rows, strict=True) for row in _score_part(task, [item], [one], judge, sandbox)
    ]


def score_items(
    task: Task, part: Sequence[Item], rows: Sequence[Row], judge: Any = None, sandbox: str = "auto"
) -> list[Row]:
    """What the metric says of each answer."""
    record = get(task.metric)
    options = {name: value for name, value in task.options.items() if name != "k"}
    references = [item.reference for item in part]
    if task.form == "choices":
        return record.score([row["log_likelihoods"] for row in rows], references, **options)
    if task.form == "code":
        start = [str((item.extra or {}).get("start", "")) for item in part]
        programs = [[program(text, head) for text in row["answers"]] for row, head in zip(rows, start, strict=True)]
        return record.score(programs, references, sandbox=sandbox, **options)
    texts = [row["answers"][0] for row in rows]
    if task.form == "judged":
        return record.score(texts, references, judge=judge, **options)
    return record.score(texts, references, **options)


def figures(task: Task, rows: Iterable[Row]) -> dict[str, float]:
    """All figures of a metric over scored items, by its own rule."""
    scored = [row["scores"] for row in rows]
    if task.metric == LIKELIHOOD or not scored:
        return {}
    record = get(task.metric)
    options = {"k": task.options["k"]} if "k" in task.options else {}
    told = record.summarise(scored, **options)
    return {key: value for key, value in told.items() if isinstance(value, (int, float))}


def judge_of(judge: Any, task: Task) -> Any:
    """The judge of a data set: the one there is, or the one of its metric."""
    return judge.get(task.metric) if isinstance(judge, Mapping) else judge


def cannot_judge(judge: Any, task: Task) -> str:
    """Why a data set cannot be judged; "" where it can."""
    judge = judge_of(judge, task)
    if judge is None:
        return "needs a judge"
    field = JUDGED[task.metric]
    if not speaks_of(judge, field):
        return f"the judge {judge.id} does not say what is {field}; {task.metric} needs one that does"
    return ""


def check_judge(judge: Any) -> dict[str, Any] | None:
    """What the report records of a judge, or None where there is none; of several, each under `judges`.

    Raises:
        RequestError: it cannot be called, or is for a metric that asks no judge.
    """
    if judge is None:
        return None
    if isinstance(judge, Mapping):
        for name in judge:
            if name not in JUDGED:
                raise bad("judge", name, f"a metric that asks a judge: {', '.join(JUDGED)}", nearest(str(name), JUDGED))
        each = {str(name): check_judge(one) or {} for name, one in judge.items()}
        return {
            "id": "; ".join(f"{name}: {told.get('id')}" for name, told in each.items()), "revision": None,
            "prompt_hash": None, "judges": each,
        }  # fmt: skip
    if not callable(judge):
        raise bad("judge", judge, "a judge, see hf_merge3h.judges, or None")
    told = judge.facts() if hasattr(judge, "facts") else {}
    return {
        "id": told.get("id", getattr(judge, "id", type(judge).__name__)),
        "revision": told.get("revision", getattr(judge, "revision", None)),
        "prompt_hash": told.get("prompt_hash"),
    }
