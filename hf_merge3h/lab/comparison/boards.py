"""Values of many runs of the evaluation, put side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import MergeError
from ...evaluation import compare
from ...evaluation.report import Report

#: data set -> item -> value, of one model
Items = Mapping[str, Mapping[str, float]]


def values_of(report: Report) -> dict[str, dict[str, float]]:
    """A run's values: it has one model."""
    (model,) = report.models
    return {dataset: of_models[model] for dataset, of_models in report.values.items()}


def side_by_side(models: Mapping[str, Items]) -> dict[str, compare.Values]:
    """Data set -> model -> item -> value."""
    datasets = dict.fromkeys(name for items in models.values() for name in items)
    return {name: {model: dict(items[name]) for model, items in models.items() if items.get(name)} for name in datasets}


def board_of(models: Mapping[str, Items], datasets: Mapping[str, Any]) -> compare.Board:
    """Values of each H with bootstrap replicates, on the items that all models share.

    Raises:
        MergeError: there are none.
    """
    board = compare.board(side_by_side(models), datasets, list(models))
    if board is None:
        raise MergeError("no item was answered by all models, so nothing can be compared")
    return board
