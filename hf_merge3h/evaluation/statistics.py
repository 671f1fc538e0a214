"""Intervals and tests for scores of the same items under several models; what scipy has, scipy does.

Items are the unit: samples of one prompt are averaged first, so that resampling items resamples whole clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import bad

Floats = NDArray[np.float64]
LEVEL = 0.95
ROUNDS = 2000


def wilson(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a rate.

    >>> [round(end, 4) for end in wilson(8, 10)]
    [0.4902, 0.9433]

    Reference:
        Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    from scipy.stats import binomtest

    if not 0 <= hits <= n or n < 1:
        raise bad("hits", f"{hits} of {n}", "0 <= hits <= n, and n at least 1")
    low, high = binomtest(hits, n).proportion_ci(level, method="wilson")
    return float(low), float(high)


def resample(values: Floats, seed: int, rounds: int = ROUNDS) -> Floats:
    """Bootstrap means of items drawn with replacement, the same items for every column.

    Args:
        values: [item, model].
        seed: of the draws.
        rounds: bootstrap rounds.

    Returns:
        [round, model].
    """
    n = len(values)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=rounds)
    replicates: Floats = drawn @ values / n
    return replicates


def interval(replicates: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of bootstrap replicates; rounds in which a ratio had no value (NaN) are left out."""
    found = replicates[np.isfinite(replicates)]
    if not len(found):
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def is_binary(values: Sequence[float] | Floats) -> bool:
    """Whether every value is 0 or 1."""
    return bool(np.isin(np.asarray(values, float), (0.0, 1.0)).all())


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean of items and its 95 % interval: Wilson's for items that are 0 or 1, else by bootstrap.

    Of a single item that is no rate there is no interval: NaN.

    >>> [round(part, 3) for part in mean_interval([1, 0, 1, 1])]
    [0.75, 0.301, 0.954]
    """
    column = np.asarray(values, float)
    if not len(column):
        raise bad("values", [], "at least one item")
    value = float(column.mean())
    if is_binary(column):
        return (value, *wilson(int(column.sum()), len(column)))
    if len(column) == 1:
        return value, float("nan"), float("nan")
    return (value, *interval(resample(column[:, None], seed)[:, 0]))


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact McNemar test: two-sided p of as uneven a split of the items on which two models differ.

    >>> mcnemar(0, 5)
    0.0625

    Reference:
        McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 1947.
    """
    from scipy.stats import binomtest

    differ = only_first + only_second
    return 1.0 if differ == 0 else float(binomtest(only_first, differ, 0.5).pvalue)


def paired_p(first: Sequence[float], second: Sequence[float], seed: int = 0) -> float:
    """Two-sided p of the difference of two models on the same items.

    Exact McNemar where every item is 0 or 1; else a sign-flip permutation test of the mean difference.
    """
    from scipy.stats import permutation_test

    one, two = np.asarray(first, float), np.asarray(second, float)
    if len(one) != len(two) or not len(one):
        raise bad("second", f"{len(two)} items", f"as many as first: {len(one)}, and at least one")
    if is_binary(one) and is_binary(two):
        return mcnemar(int(((one == 1) & (two == 0)).sum()), int(((one == 0) & (two == 1)).sum()))
    if len(one) == 1 or not (one - two).any():
        return 1.0

    def gap(a: Any, b: Any, axis: int) -> Any:
        return (a - b).mean(axis=axis)

    told = permutation_test(
        (one, two), gap, permutation_type="samples", n_resamples=4999, batch=500, rng=np.random.default_rng(seed)
    )
    return float(told.pvalue)


def paired_difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean of first minus second on the same items, with its 95 % interval by bootstrap of items.

    >>> paired_difference([1.0, 1.0], [0.5, 0.5])
    (0.5, 0.5, 0.5)
    """
    gaps = np.asarray(first, float) - np.asarray(second, float)
    if len(gaps) == 1:
        return float(gaps[0]), float("nan"), float("nan")
    return (float(gaps.mean()), *interval(resample(gaps[:, None], seed)[:, 0]))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: all hypotheses together keep the level.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Reference:
        Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order = sorted(range(len(ps)), key=lambda index: ps[index])
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one is at least as good everywhere, and better somewhere (higher is better)."""
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def pareto(points: Mapping[str, Sequence[float]]) -> dict[str, list[str]]:
    """Each name with those that dominate it; an empty list means: on the front.

    >>> pareto({"a": (1, 0), "b": (0, 1), "c": (0, 0.5)})
    {'a': [], 'b': [], 'c': ['b']}
    """
    return {
        name: [rival for rival, other in points.items() if rival != name and dominates(other, point)]
        for name, point in points.items()
    }


def hypervolume(points: Sequence[Sequence[float]]) -> float:
    """Volume of what the points dominate, down to the origin (values below it count as 0); slice by slice.

    >>> hypervolume([(1, 0.5), (0.5, 1)])
    0.75
    """
    rows = [tuple(max(0.0, float(value)) for value in point) for point in points]
    if not rows:
        return 0.0
    if len(rows[0]) == 1:
        return max(row[0] for row in rows)
    heights = sorted({row[-1] for row in rows} | {0.0})
    return sum(
        (high - low) * hypervolume([row[:-1] for row in rows if row[-1] >= high]) for low, high in pairwise(heights)
    )
