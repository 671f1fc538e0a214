"""Intervals cover, tests keep their level (by simulation, within Monte Carlo error), small cases by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_merge3h.errors import RequestError
from hf_merge3h.evaluation import statistics

RUNS = 600


def band(share: float, runs: int = RUNS) -> float:
    """Four standard errors of a simulated share."""
    return 4 * math.sqrt(share * (1 - share) / runs)


@pytest.mark.parametrize(("rate", "n"), [(0.5, 40), (0.1, 100), (0.9, 60), (0.97, 30)])
def test_wilson_covers(rate, n):
    # exactly, over all outcomes: the interval's coverage swings around its share, never far from it
    weights = [math.comb(n, hits) * rate**hits * (1 - rate) ** (n - hits) for hits in range(n + 1)]
    covered = sum(
        weight
        for hits, weight in enumerate(weights)
        if statistics.wilson(hits, n)[0] <= rate <= statistics.wilson(hits, n)[1]
    )
    assert 0.93 <= covered <= 0.98


def test_bootstrap_covers():
    source = np.random.default_rng(1)
    hits = 0
    for run in range(RUNS):
        _, low, high = statistics.mean_interval(source.beta(2, 3, size=120), seed=run)
        hits += low <= 0.4 <= high
    assert abs(hits / RUNS - 0.95) < band(0.95) + 0.005  # percentile intervals are a little narrow at n = 120


def test_bootstrap_by_prompt_covers_where_samples_cluster():
    source = np.random.default_rng(2)
    by_prompt = by_sample = 0
    for run in range(RUNS):
        rates = source.beta(0.5, 0.5, size=80)
        samples = source.random((80, 5)) < rates[:, None]
        _, low, high = statistics.mean_interval(samples.mean(1), seed=run)
        by_prompt += low <= 0.5 <= high
        low, high = statistics.wilson(int(samples.sum()), samples.size)
        by_sample += low <= 0.5 <= high
    assert abs(by_prompt / RUNS - 0.95) < band(0.95) + 0.01
    assert by_sample / RUNS < 0.85  # what counting samples as independent would have given


def test_paired_difference_covers():
    source = np.random.default_rng(3)
    hits = 0
    for run in range(RUNS):
        hard = source.normal(size=100)
        first, second = (hard + shift + source.normal(scale=0.5, size=100) for shift in (0.2, 0.0))
        _, low, high = statistics.paired_difference(first, second, seed=run)
        hits += low <= 0.2 <= high
    assert abs(hits / RUNS - 0.95) < band(0.95) + 0.01


def test_mcnemar_keeps_its_level():
    source = np.random.default_rng(4)
    rejected = 0
    for _ in range(RUNS):
        rates = source.beta(1, 1, size=120)
        first, second = (source.random(120) < rates).astype(float), (source.random(120) < rates).astype(float)
        rejected += statistics.paired_p(first, second) < 0.05
    assert rejected / RUNS < 0.05 + band(0.05)


def test_sign_flips_keep_their_level_and_find_a_difference():
    source = np.random.default_rng(5)
    rejected = found = 0
    runs = 200
    for run in range(runs):
        hard = source.exponential(size=60)
        first, second = (hard + source.exponential(size=60) for _ in range(2))
        rejected += statistics.paired_p(first, second, seed=run) < 0.05
        found += statistics.paired_p(first + 0.8, second, seed=run) < 0.05
    assert abs(rejected / runs - 0.05) < band(0.05, runs)
    assert found / runs > 0.9


def test_holm_keeps_the_level_of_all_together():
    source = np.random.default_rng(6)
    wrong = sum(min(statistics.holm(list(source.random(6)))) < 0.05 for _ in range(4000)) / 4000
    assert wrong < 0.05 + band(0.05, 4000)


def test_small_cases_by_hand():
    # 1.959964^2 = 3.841459; (2 + 1.9207) / (4 + 3.8415) -+ ...
    low, high = statistics.wilson(2, 4)
    centre, spread = 0.5, math.sqrt(0.25 / 4 + 3.841459 / 64) * 1.959964 / (1 + 3.841459 / 4)
    assert (low, high) == pytest.approx((centre - spread, centre + spread), abs=1e-5)
    assert statistics.wilson(0, 3)[0] == 0
    assert statistics.wilson(3, 3)[1] == 1
    # 1 and 6 of 7 differing items: 2 * (C(7,0) + C(7,1)) / 2^7
    assert statistics.mcnemar(1, 6) == pytest.approx(16 / 128)
    assert statistics.mcnemar(0, 0) == 1
    # three differing items, all in one direction: the 2 of 8 sign patterns that are as extreme
    assert statistics.paired_p([0.3, 0.2, 0.4], [0.1, 0.1, 0.1]) == pytest.approx(2 / 8)
    assert statistics.holm([0.02, 0.02]) == [0.04, 0.04]
    assert statistics.holm([]) == []
    assert statistics.hypervolume([(0.5, 0.5, 0.5)]) == pytest.approx(0.125)
    assert statistics.hypervolume([(1, 0.5, 0.5), (0.5, 1, 0.5), (0.25, 0.25, 0.25)]) == pytest.approx(0.375)
    assert statistics.hypervolume([(1, 1, -1)]) == 0
    assert statistics.pareto({"a": (1, 1), "b": (1, 1), "c": (0.5, 1)}) == {"a": [], "b": [], "c": ["a", "b"]}


def test_one_item_has_no_interval_unless_it_is_a_rate():
    assert statistics.mean_interval([0.3])[0] == 0.3
    assert math.isnan(statistics.mean_interval([0.3])[1])
    assert statistics.mean_interval([1.0])[1:] == pytest.approx((0.2065, 1.0), abs=1e-4)
    assert statistics.paired_p([0.3], [0.2]) == 1
    assert math.isnan(statistics.paired_difference([0.3], [0.2])[1])


def test_hypervolume_agrees_with_drawing_points():
    source = np.random.default_rng(7)
    points = source.random((5, 3))
    drawn = source.random((200_000, 3))
    share = (drawn[:, None] <= points[None]).all(2).any(1).mean()
    assert statistics.hypervolume(points.tolist()) == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("call", [lambda: statistics.wilson(3, 2), lambda: statistics.mean_interval([]),
                                  lambda: statistics.paired_p([1.0], [1.0, 0.0])])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(RequestError):
        call()
