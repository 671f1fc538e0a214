"""What the items say about models: figures, differences, and what the merge did with each H.

All comparisons are on the items that the models share. Values are turned so that higher is better (a rate whose
direction is "lower" counts as one minus it) wherever they are combined; nothing is imputed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import statistics
from .statistics import Floats
from .suite import H

ALPHA = 0.05
Values = dict[str, dict[str, float]]  # model -> item -> value


@dataclass(frozen=True)
class Figure:
    """A number with its interval and how many items it rests on."""

    value: float
    low: float
    high: float
    n: int

    def plain(self) -> dict[str, Any]:
        """As JSON has it: a missing end is None."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        return {key: None if math.isnan(end) else end for key, end in ends.items()} | {"n": self.n}


def seed_of(*parts: object) -> int:
    """A seed of its own for each figure, the same in each report."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def figure(values: Mapping[str, float], *parts: object) -> Figure:
    """Mean over a model's items."""
    value, low, high = statistics.mean_interval(list(values.values()), seed_of(*parts))
    return Figure(value, low, high, len(values))


def paired(dataset: str, values: Values, merged: str, direction: str) -> list[dict[str, Any]]:
    """The merged model against each other one; Holm's adjustment comes later, over data sets."""
    found = []
    for other in values:
        if other == merged:
            continue
        shared = [item for item in values[merged] if item in values[other]]
        if not shared:
            continue
        first, second = ([values[name][item] for item in shared] for name in (merged, other))
        seed = seed_of("paired", dataset, other)
        difference, low, high = statistics.paired_difference(first, second, seed)
        found.append(
            {
                "against": other, "difference": difference,
                "low": None if math.isnan(low) else low, "high": None if math.isnan(high) else high,
                "p": statistics.paired_p(first, second, seed), "n": len(shared), "direction": direction,
            }
        )  # fmt: skip
    return found


def adjust(pairs: Mapping[str, list[dict[str, Any]]]) -> None:
    """Holm over data sets, for each rival by itself; then whether the difference can be told from none."""
    rivals = dict.fromkeys(one["against"] for ones in pairs.values() for one in ones)
    for rival in rivals:
        family = [one for ones in pairs.values() for one in ones if one["against"] == rival]
        for one, adjusted in zip(family, statistics.holm([one["p"] for one in family]), strict=True):
            one["p_holm"] = adjusted
            one["distinguishable"] = adjusted < ALPHA
            upwards = one["difference"] * (1 if one.pop("direction") == "higher" else -1)
            one["better"] = upwards > 0 if one["distinguishable"] else None


def flips(values: Values, merged: str, other: str) -> dict[str, list[str]]:
    """Items on which two models differ, where values are 0 or 1: from the other's 1 to the merged one's 0, and back."""
    shared = [item for item in values[merged] if item in values[other]]
    return {
        "1 to 0": [item for item in shared if values[other][item] == 1 and values[merged][item] == 0],
        "0 to 1": [item for item in shared if values[other][item] == 0 and values[merged][item] == 1],
    }


@dataclass(frozen=True)
class Board:
    """H values of all models, with bootstrap replicates, from the items that all of them share.

    Attributes:
        models: names, in order.
        datasets: H -> dimension -> names of data sets.
        points: data set -> [model], higher is better.
        draws: data set -> [round, model].
    """

    models: tuple[str, ...]
    datasets: Mapping[str, Mapping[str, Sequence[str]]]
    points: Mapping[str, Floats]
    draws: Mapping[str, Floats]

    def of(self, h: str, model: str) -> tuple[Floats, Floats]:
        """Macro mean of an H over its dimensions and their data sets, and its replicates."""
        column = self.models.index(model)
        dimensions = self.datasets[h].values()
        point = np.mean([np.mean([self.points[name][column] for name in names]) for names in dimensions])
        rows = [np.mean([self.draws[name][:, column] for name in names], axis=0) for names in dimensions]
        return np.asarray(point), np.mean(rows, axis=0)

    def value(self, h: str, model: str) -> dict[str, Any] | None:
        """An H of a model, with its interval."""
        return _told(*self.of(h, model))

    def least(self, model: str) -> dict[str, Any] | None:
        """The least H of a model."""
        points, draws = zip(*(self.of(h, model) for h in self.datasets), strict=True)
        return _told(np.min(points, axis=0), np.min(draws, axis=0))

    def change(self, h: str, model: str, other: str) -> dict[str, Any] | None:
        """An H of a model minus that of another one."""
        return _told(*(one - two for one, two in zip(self.of(h, model), self.of(h, other), strict=True)))

    def ratio(self, h: str, model: str, other: str, base: str | None = None) -> dict[str, Any] | None:
        """An H of a model over that of another one, both counted from the base's (or from 0)."""
        zero: Any = (0.0, 0.0) if base is None else self.of(h, base)
        with np.errstate(all="ignore"):
            parts = zip(self.of(h, model), self.of(h, other), zero, strict=True)
            point, draws = ((one - none) / (two - none) for one, two, none in parts)
        return _told(point, draws)


def _told(point: Floats, draws: Floats) -> dict[str, Any] | None:
    """A figure and its interval as plain numbers; None where it has no value."""
    if not math.isfinite(float(point)):
        return None
    if np.ptp(draws) == 0:  # items that all agree tell a bootstrap nothing of how much they might differ
        return {"value": float(point), "low": None, "high": None}
    ends = {name: end if math.isfinite(end) else None for name, end in zip(("low", "high"), statistics.interval(draws))}
    return {"value": float(point), **ends}


def board(values: Mapping[str, Values], facts: Mapping[str, Mapping[str, Any]], models: Sequence[str]) -> Board | None:
    """The board over data sets that count and that all models have; None where there is none."""
    datasets: dict[str, dict[str, list[str]]] = {}
    points, draws = {}, {}
    for name, of_models in values.items():
        fact = facts[name]
        if not fact["averaged"] or any(not of_models.get(model) for model in models):
            continue
        shared = [item for item in of_models[models[0]] if all(item in of_models[model] for model in models)]
        if not shared:
            continue
        table = np.array([[of_models[model][item] for model in models] for item in shared])
        table = table if fact["direction"] == "higher" else 1 - table
        points[name], draws[name] = table.mean(0), statistics.resample(table, seed_of("board", name))
        datasets.setdefault(fact["h"], {}).setdefault(fact["dimension"], []).append(name)
    ordered = {h: datasets[h] for h in H if h in datasets}
    return Board(tuple(models), ordered, points, draws) if ordered else None


def summarise(told: Board, base: str | None, merged: str, experts: Mapping[str, str | None]) -> dict[str, Any]:
    """H values, gain, retention, recovery, min-H, worst drop, Pareto, hypervolume, conflict matrix."""
    hs = list(told.datasets)
    full = set(hs) == set(H)
    summary: dict[str, Any] = {"h": {h: {model: told.value(h, model) for model in told.models} for h in hs}}
    if full:
        summary["min_h"] = {model: told.least(model) for model in told.models}
    held = {expert: str(h) for expert, h in experts.items() if h in told.datasets and expert in told.models}
    summary["retention"] = {
        expert: {"h": h, **(told.ratio(h, merged, expert) or {"value": None})} for expert, h in held.items()
    }
    if base is not None:
        summary["gain"] = {h: told.change(h, merged, base) for h in hs}
        summary["worst_drop"] = _worst(summary["gain"])
        summary["conflict"] = {
            expert: {h: told.change(h, expert, base) for h in hs} for expert in experts if expert in told.models
        }
        summary["recovery"] = {expert: recovery(told, base, merged, expert, h) for expert, h in held.items()}
    points = {model: [float(told.of(h, model)[0]) for h in hs] for model in told.models}
    summary["pareto"] = statistics.pareto(points)
    if full:
        before = [point for model, point in points.items() if model != merged]
        summary["hypervolume"] = {
            "with_merged": statistics.hypervolume(list(points.values())),
            "without_merged": statistics.hypervolume(before),
        }
    return summary


def _worst(gains: Mapping[str, dict[str, Any] | None]) -> dict[str, Any] | None:
    known = {h: gain for h, gain in gains.items() if gain is not None}
    if not known:
        return None
    h = min(known, key=lambda one: float(known[one]["value"]))
    return {"h": h, **known[h]}


def recovery(told: Board, base: str, merged: str, expert: str, h: str) -> dict[str, Any]:
    """(m - b) / (e - b); undefined where the expert's own gain may be nothing."""
    gain = told.change(h, expert, base)
    if gain is None or gain["low"] is None or gain["low"] <= 0:
        reason = f"undefined: the expert's own gain on {h} may be nothing, for its interval reaches 0"
        return {"h": h, "value": None, "reason": reason}
    return {"h": h, **(told.ratio(h, merged, expert, base) or {"value": None})}
