"""The one base class of our evaluate modules. It needs the evaluate library; nothing else in this room does."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import datasets
import evaluate

from ..errors import RequestError, bad, nearest
from .records import get


def features(predictions: Any, references: Any = None) -> datasets.Features:
    """What a module says about its input; log-likelihoods are float64, for float32 rounds -5000.123."""
    told = {"predictions": predictions} | ({} if references is None else {"references": references})
    return datasets.Features(told)


def text() -> datasets.Value:
    """A string."""
    return datasets.Value("string")


def number() -> datasets.Value:
    """A number."""
    return datasets.Value("float64")


def listed(kind: str) -> Any:
    """A list of values of this kind."""
    return datasets.Sequence(datasets.Value(kind))


def info(name: str, said: datasets.Features) -> evaluate.MetricInfo:
    """What evaluate shows of a metric, from its record."""
    record = get(name)
    returns = "\n".join(f"    {key}: {meaning}" for key, meaning in record.returns.items())
    inputs = (
        f"\nArgs:\n    predictions: {record.predictions}.\n    references: {record.references}.\n"
        f"    return_items: also give `items`, one dict a prediction.\n\nReturns:\n    n: items scored\n{returns}\n"
    )
    return evaluate.MetricInfo(
        description=record.about,
        citation=record.paper,
        inputs_description=inputs,
        features=said,
        reference_urls=[f"https://arxiv.org/abs/{record.paper.removeprefix('arXiv:')}"],
        license="Apache-2.0",
    )


class Metric(evaluate.Metric):
    """An evaluate module over one of our records.

    evaluate passes predictions through an Arrow file: it turns dicts and optional references into errors, and needs a
    cache that it may write to. Ours go to `_compute` as they are, and nothing is written.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        if named.get("num_process", 1) != 1:
            raise bad("num_process", named["num_process"], "1", "gather the predictions and compute in one process")
        super().__init__(*arguments, **named)
        self._added: dict[str, list[Any]] = {"predictions": [], "references": []}

    def __len__(self) -> int:
        return len(self._added["predictions"])

    def _build_data_dir(self) -> str:
        return str(self._data_dir_root)  # evaluate's own makes the folder, for a file that we never write

    def add(self, *, prediction: Any = None, reference: Any = None) -> None:
        """Add one prediction, and its reference where there is one."""
        self.add_batch(predictions=[prediction], references=None if reference is None else [reference])

    def add_batch(self, *, predictions: Any = None, references: Any = None) -> None:
        """Add predictions, and their references where there are any."""
        if predictions is None:
            raise bad("predictions", None, "a list", "see `inputs_description`")
        if isinstance(predictions, Mapping):
            predictions = [predictions]
        self._added["predictions"].extend(predictions)
        self._added["references"].extend(references if references is not None else ())

    def compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, Any]:
        """Score predictions, or what was added before."""
        known = inspect.signature(self._compute).parameters
        for name, value in options.items():
            if name not in known:
                raise bad(name, value, f"an option of {self.name}", nearest(name, [*known][2:]))
        if len(self):
            if predictions is not None or references is not None:
                raise RequestError(f"{len(self)} predictions were added before: expected none with compute as well")
            added, self._added = self._added, {"predictions": [], "references": []}
            predictions, references = added["predictions"], added["references"] or None
        if predictions is None:
            raise bad("predictions", None, "predictions", "give them to compute, add or add_batch")
        result: dict[str, Any] = self._compute(predictions, references, **options)
        return result
