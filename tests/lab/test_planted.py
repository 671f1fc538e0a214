"""On changes whose truth is known R-TSVM must win where its ideas apply, and be seen to lose where they do not."""

from __future__ import annotations

import pytest

from hf_merge3h.lab.planted import PLANTS, RIVALS, plant, study


@pytest.fixture(scope="module")
def told():
    return study(seeds=5)


def test_everything_is_compared(told):
    assert set(told) == set(PLANTS)
    assert all(set(found) == set(RIVALS) for found in told.values())


@pytest.mark.parametrize("kind", ["outliers", "rows"])
def test_planted_outliers_are_where_it_wins(told, kind):
    found = told[kind]
    assert found["r_tsvm"]["nearer"] == 1
    assert found["r_tsvm"]["distance"] < 0.85 * found["tsv_merge"]["distance"]


def test_it_is_the_outliers_that_count_and_not_the_strength_of_the_weights(told):
    found = told["outliers"]
    assert found["r_tsvm, weights alone"]["distance"] < 0.75 * found["random_weights"]["distance"]
    assert found["random_weights"]["distance"] > 0.97 * found["tsv_merge"]["distance"]


def test_ranks_that_follow_sparsity_beat_a_uniform_cut_where_changes_are_sparse(told):
    found = told["sparse"]
    assert found["r_tsvm, ranks alone"]["distance"] < 0.9 * found["uniform_cut"]["distance"]
    assert found["r_tsvm"]["distance"] < found["tsv_merge"]["distance"]


def test_where_outliers_are_the_change_damping_costs(told):
    found = told["salient"]
    assert found["r_tsvm"]["distance"] > 1.5 * found["tsv_merge"]["distance"]


def test_draws_follow_from_their_seed():
    for kind in PLANTS:
        (one, truth), (two, _), (other, _) = plant(kind, 1), plant(kind, 1), plant(kind, 2)
        assert one.equal(two)
        assert not one.equal(other)
        assert one.shape == truth.shape == (3, 96, 80)
