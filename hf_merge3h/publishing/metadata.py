"""A card's metadata: what the Hub reads of it, and the Hub's documented rules for it, checked here.

`huggingface_hub.RepoCard.validate` would post the card to the Hub; the rules are few and stand in
https://github.com/huggingface/hub-docs/blob/main/modelcard.md and https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

from . import licenses
from .facts import Facts
from .text import NOT_RECORDED, is_hub_id, one_line

#: Keys of the metadata that a card of ours sets.
KEYS = (
    "base_model", "base_model_relation", "library_name", "pipeline_tag", "license", "license_name", "license_link",
    "language", "tags", "model-index",
)  # fmt: skip
RELATIONS = ("adapter", "merge", "quantized", "finetune")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|code|multilingual")
_TAG = re.compile(r"[\w.:+-]{1,100}")
#: Data sets of our suites that the Hub lists as benchmarks: id -> task in their eval.yaml, records of the whole split,
#: and the figure that their leaderboard counts. Another figure of the same records is none of it.
BENCHMARKS = {"openai/gsm8k": ("gsm8k", 1319, ("math_accuracy", "accuracy"))}


def metadata(facts: Facts, name: str) -> dict[str, Any]:
    """The metadata of a merge's card, in the order in which it is written.

    Args:
        facts: of the manifest.
        name: of the model, for the `model-index`.
    """
    base = facts.base
    ids = [each.hub_id for each in facts.parents]
    if facts.is_adapter and base:
        ids = [base.hub_id or facts.named_base]
    found: dict[str, Any] = {
        "base_model": list(dict.fromkeys(each for each in ids if each)) or None,
        "base_model_relation": "adapter" if facts.is_adapter else "merge",
        "library_name": "peft" if facts.is_adapter else "transformers",
        "pipeline_tag": _pipeline_tag(facts),
        "license": facts.verdict.license,
        "license_name": facts.verdict.name,
        "license_link": facts.verdict.link,
        "language": _languages(facts),
        "tags": [tag for tag in ("merge", "merge_3h", facts.method["name"]) if _TAG.fullmatch(tag)],
        "model-index": model_index(facts, name),
    }
    if found["base_model"] is None:
        del found["base_model_relation"]
    return {key: value for key, value in found.items() if value is not None}


def model_index(facts: Facts, name: str) -> list[dict[str, Any]] | None:
    """Results in the form that `ModelCardData` gives them; None without any."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = []
    for each in (facts.evaluation or {}).get("datasets", ()):
        merged = each["values"].get(facts.evaluation["merged"]) if facts.evaluation else None
        if merged is None or not _finite(merged.get("value")):
            continue
        results.append(
            EvalResult(
                task_type=_pipeline_tag(facts) or "text-generation",
                dataset_type=one_line(each["dataset_id"] if is_hub_id(each["dataset_id"]) else each["dataset"], 100),
                dataset_name=one_line(each.get("title") or each["dataset"], 100),
                dataset_split=_text(each.get("split")),
                dataset_revision=_commit(each.get("dataset_revision")),
                metric_type=one_line(each["metric"], 60),
                metric_name=one_line(f"{each['metric']} ({each['key']}, {each['direction']} is better)", 100),
                metric_value=round(float(merged["value"]), 6),
            )
        )
    return eval_results_to_model_index(one_line(name, 96), results) if results else None


def eval_results(facts: Facts) -> dict[str, list[dict[str, Any]]]:
    """`.eval_results/*.yaml` by file name: results on data sets that the Hub lists as benchmarks.

    They feed public leaderboards, so a result on a part of a benchmark makes none. The format is that of
    https://huggingface.co/docs/hub/eval-results; leaderboards count in percent.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    evaluation, found = facts.evaluation, {}
    for each in (evaluation or {}).get("datasets", ()):
        merged = each["values"].get(evaluation["merged"]) if evaluation else None
        task, whole, figure = BENCHMARKS.get(each["dataset_id"], (None, 0, ()))
        if evaluation is None or merged is None or task is None or not _finite(merged.get("value")):
            continue
        if each["n"] < whole or (each["metric"], each["key"]) != figure:
            continue
        entry = EvalResultEntry(
            dataset_id=each["dataset_id"],
            task_id=task,
            value=round(100 * float(merged["value"]), 4),
            dataset_revision=_commit(each.get("dataset_revision")),
            date=_text(evaluation.get("date")),
            notes=one_line(f"{each['metric']} ({each['key']}), n={each['n']}, suite {evaluation['suite']}"),
        )
        found[f"{task}.yaml"] = eval_result_entries_to_yaml([entry])
    return found


def _text(value: Any) -> str | None:
    return None if value in (None, "", NOT_RECORDED) else one_line(value, 100)


def _commit(value: Any) -> str | None:
    """A commit of the Hub; the version of a package that held a sample is none."""
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{40}", value) else None


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _pipeline_tag(facts: Facts) -> str | None:
    tags = {str(each.card["pipeline_tag"]) for each in facts.parents if each.card and each.card.get("pipeline_tag")}
    known = tags & pipeline_tags()
    if len(tags) == 1 and known:
        return known.pop()
    return "text-generation" if facts.generates and not tags else None


def _languages(facts: Facts) -> list[str] | None:
    """The languages that the parents agree on; None where one names others, or names none."""
    found = [tuple(sorted((each.card or {}).get("language") or ())) for each in facts.parents]
    if not found or len(set(found)) > 1:
        return None
    languages = [each for each in found[0] if _LANGUAGE.fullmatch(str(each))]
    return languages or None


@functools.cache
def pipeline_tags() -> frozenset[str]:
    """Tasks of text models that the Hub knows (https://huggingface.co/tasks)."""
    return frozenset(
        [
            "text-generation",
            "text-classification",
            "token-classification",
            "question-answering",
            "translation",
            "summarization",
            "feature-extraction",
            "fill-mask",
            "sentence-similarity",
            "image-text-to-text",
            "image-classification",
            "zero-shot-classification",
            "text-ranking",
            "any-to-any",
            "automatic-speech-recognition",
            "text-to-image",
            "image-to-text",
            "visual-question-answering",
        ]
    )


def problems(data: Mapping[str, Any]) -> list[str]:
    """Where metadata departs from what the Hub documents."""
    found = []
    models = data.get("base_model", [])
    for each in [models] if isinstance(models, str) else models:
        if not is_hub_id(each):
            found.append(f"base_model: {each!r} is no id of the Hub")
    if data.get("base_model_relation") not in (None, *RELATIONS):
        found.append(f"base_model_relation: {data['base_model_relation']!r}, expected one of {', '.join(RELATIONS)}")
    if not isinstance(data.get("library_name", ""), str):
        found.append("library_name: expected a text")
    if "pipeline_tag" in data and data["pipeline_tag"] not in pipeline_tags():
        found.append(f"pipeline_tag: {data['pipeline_tag']!r} is no task that the Hub knows")
    stated = data.get("license")
    known = {each.id for each in licenses.table().values() if each.hub == each.id}
    if stated is not None and stated not in known:
        found.append(f"license: {stated!r} is no identifier that the Hub's list has")
    if stated == "other" and not (data.get("license_name") and data.get("license_link")):
        found.append("license: 'other' needs license_name and license_link")
    languages = data.get("language", [])
    for each in [languages] if isinstance(languages, str) else languages:
        if not isinstance(each, str) or not _LANGUAGE.fullmatch(each):
            found.append(f"language: {each!r} is no ISO 639 code")
    if not all(isinstance(tag, str) and 0 < len(tag) <= 100 for tag in data.get("tags", [])):
        found.append("tags: expected short texts")
    return found + [line for model in data.get("model-index", []) for line in _index_problems(model)]


def _index_problems(model: Mapping[str, Any]) -> list[str]:
    if not model.get("name"):
        return ["model-index: a model without a name"]
    found = []
    for place, result in enumerate(model.get("results", [])):
        where = f"model-index.results[{place}]"
        if not result.get("task", {}).get("type"):
            found.append(f"{where}: lacks task.type")
        found += [f"{where}: lacks dataset.{key}" for key in ("type", "name") if not result.get("dataset", {}).get(key)]
        metrics = result.get("metrics") or []
        if not metrics or not all(each.get("type") and each.get("value") is not None for each in metrics):
            found.append(f"{where}: needs metrics with type and value")
    return found
