"""A small Gradio page over one metric: what a metric's Space shows. It needs gradio; nothing else in this room does."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio

from ..errors import MergeError, bad
from ..judges import Verdict
from .records import Metric, get, metric_path


def examples(name: str) -> list[dict[str, Any]]:
    """The cases of the metric's `tests.py`: predictions, references, options, result."""
    found: list[dict[str, Any]] = runpy.run_path(str(Path(metric_path(name)) / "tests.py"))["test_cases"]
    return found


def build(name: str) -> gradio.Blocks:
    """The page of a metric: predictions, references and options as JSON, scores as JSON.

    Raises:
        RequestError: there is no metric of this name.
    """
    metric, example = get(name), examples(name)[0]
    with gradio.Blocks(title=metric.title) as page:
        gradio.Markdown(f"# {metric.title}\n\n{metric.about} Part of hf_merge3h; input and output are JSON.")
        with gradio.Row():
            predictions = _field(f"Predictions: {metric.predictions}", example["predictions"])
            references = _field(f"References: {metric.references}", example["references"])
        options = _field(_options_label(metric), example.get("options", {}))
        button = gradio.Button("Score", variant="primary")
        scores = gradio.JSON(label="Scores")
        button.click(_scorer(metric), [predictions, references, options], scores, api_name="score")
    return page


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON can say them: a judge is the list of its verdicts."""
    if isinstance(options.get("judge"), list):
        return {**options, "judge": _replayed(options["judge"])}
    return options


def _field(label: str, value: Any) -> gradio.Code:
    return gradio.Code(json.dumps(value, indent=1, ensure_ascii=False), language="json", label=label)


def _options_label(metric: Metric) -> str:
    names = ", ".join(metric.options) or "none"
    return f"Options ({names})" + ("; judge: a list of verdicts" if "judge" in metric.options else "")


def _scorer(metric: Metric) -> Callable[[str, str, str], dict[str, Any]]:
    def score(predictions: str, references: str, options: str) -> dict[str, Any]:
        try:
            answers, right = _read("predictions", predictions), _read("references", references)
            chosen = _read("options", options) or {}
            return metric.compute(answers, right, return_items=True, **given(chosen))
        except MergeError as error:
            raise gradio.Error(str(error)) from None

    return score


def _read(name: str, text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except ValueError as error:
        raise bad(name, text, f"JSON ({error})") from None


def _replayed(verdicts: Sequence[Any]) -> Callable[..., list[Verdict]]:
    def judge(prompts: Sequence[str], answers: Sequence[str], references: Any = None) -> list[Verdict]:
        return [Verdict.from_dict(verdict) for verdict in verdicts]

    return judge
