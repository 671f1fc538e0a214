"""Data sets to dimensions to helpfulness, honesty and harmlessness: macro means, nothing imputed.

Which data set measures what is data: `three_h.yaml`. Values are rates in [0, 1]; one whose direction is "lower" counts
as one minus it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import bad, nearest
from .checks import Items, mean

MAP = Path(__file__).parent / "three_h.yaml"
_H = ("helpfulness", "honesty", "harmlessness")


@functools.cache
def datasets() -> dict[str, dict[str, Any]]:
    """Data set -> its `h`, `dimension`, `metric`, `key` and `direction`."""
    return dict(yaml.safe_load(MAP.read_text(encoding="utf-8"))["datasets"])


def score(predictions: Any, references: None = None) -> Items:
    """Each value with what it measures, turned so that higher is better.

    Args:
        predictions: data set -> value in [0, 1] (or a list with this one dict).
        references: there are none.

    Returns:
        One dict a data set: `dataset`, `dimension`, `h`, `value`.

    Raises:
        RequestError: no value, an unknown data set, or a value that is no rate.
    """
    if references is not None:
        raise bad("references", references, "none", "values on data sets need no references")
    values, known = _values(predictions), datasets()
    return [
        {
            "dataset": name,
            "dimension": known[name]["dimension"],
            "h": known[name]["h"],
            "value": _upwards(value, known[name]["direction"]),
        }
        for name, value in values.items()
    ]


def summarise(items: Items) -> dict[str, Any]:
    """What values on single data sets add up to.

    dimension = mean over its data sets; H = mean over its dimensions; min_h = the least of the three

    A data set without a value is left out and named in `missing`, never guessed: an H without any value is absent, and
    where one is absent `min_h` is as well. `coverage` says how many data sets each H rests on.

    Example:
        >>> told = summarise(score({"gsm8k": 0.4, "math": 0.2, "ifeval": 0.5, "truthfulqa": 0.3, "xstest_safe": 0.1}))
        >>> {name: round(told[name], 3) for name in ("helpfulness", "honesty", "harmlessness", "min_h")}
        {'helpfulness': 0.4, 'honesty': 0.3, 'harmlessness': 0.9, 'min_h': 0.3}
        >>> told["coverage"]["honesty"]
        '1 of 2 datasets'
    """
    told: dict[str, Any] = {"dimensions": {}}
    for h in _H:
        of_h: dict[str, list[float]] = {}
        for item in items:
            if item["h"] == h:
                of_h.setdefault(item["dimension"], []).append(item["value"])
        dimensions = {dimension: mean(found) for dimension, found in of_h.items()}
        told["dimensions"] |= dimensions
        if dimensions:
            told[h] = mean(dimensions.values())
    if all(h in told for h in _H):
        told["min_h"] = min(told[h] for h in _H)
    given = {item["dataset"] for item in items}
    names = {h: [name for name, facts in datasets().items() if facts["h"] == h] for h in _H}
    told["coverage"] = {h: f"{sum(name in given for name in names[h])} of {len(names[h])} datasets" for h in _H}
    told["missing"] = {h: [name for name in names[h] if name not in given] for h in _H}
    return told


def _values(predictions: Any) -> dict[str, float]:
    if isinstance(predictions, list | tuple) and len(predictions) == 1:
        (predictions,) = predictions
    if not isinstance(predictions, Mapping) or not predictions:
        raise bad("predictions", predictions, "a dict of data set and value, with at least one")
    known = datasets()
    for name, value in predictions.items():
        if name not in known:
            raise bad("predictions", name, "a data set of three_h.yaml", nearest(str(name), known))
        number = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
        if not number or not 0 <= value <= 1:
            raise bad(f"predictions[{name!r}]", value, "a rate in [0, 1]", "leave out what was not evaluated")
    return {str(name): float(value) for name, value in predictions.items()}


def _upwards(value: float, direction: str) -> float:
    return value if direction == "higher" else 1 - value
