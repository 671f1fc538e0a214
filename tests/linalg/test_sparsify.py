"""Thresholds are exact, by selection and by histogram, and equal magnitudes are never told apart."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_merge3h.linalg import sparsify
from hf_merge3h.linalg.sparsify import (
    at_least,
    between,
    count_of,
    keep_largest,
    keep_middle,
    kth_largest,
)

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def by_histogram(vectors, k):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparsify, "_SELECT_BY_HISTOGRAM", 0)
        return kth_largest(vectors, k)


@given(st.lists(FLOATS, min_size=1, max_size=40), st.data())
def test_kth_largest_is_the_sorted_one(numbers, data):
    k = data.draw(st.integers(1, len(numbers)))
    vectors = torch.tensor([numbers, numbers[::-1]], dtype=torch.float32)
    wanted = vectors.abs().sort(descending=True).values[:, k - 1]
    assert torch.equal(kth_largest(vectors, k), wanted)
    assert torch.equal(by_histogram(vectors, k), wanted)
    assert torch.equal(kth_largest(vectors, torch.tensor([k, k])), wanted)


def test_kth_largest_by_row():
    vectors = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    k = torch.tensor([1, 250, 500])
    wanted = vectors.abs().sort(descending=True).values[torch.arange(3), k - 1]
    assert torch.equal(kth_largest(vectors, k), wanted)
    assert torch.equal(by_histogram(vectors, k), wanted)


def test_histograms_in_chunks_are_the_same(monkeypatch):
    vectors = torch.randn(1, 300_000, generator=torch.Generator().manual_seed(0))
    wanted = kth_largest(vectors, 1000)
    monkeypatch.setattr(sparsify, "_SELECT_BY_HISTOGRAM", 0)
    assert torch.equal(kth_largest(vectors, 1000), wanted)


def test_large_tensors_take_the_histogram():
    vectors = torch.randn(1, sparsify._SELECT_BY_HISTOGRAM, generator=torch.Generator().manual_seed(0))
    k = count_of(0.2, vectors.shape[-1])
    assert (vectors.abs() >= kth_largest(vectors, k)).sum() == k


@given(st.lists(FLOATS, min_size=1, max_size=40), st.data())
def test_thresholds_are_inclusive_and_zeros_have_no_sign(numbers, data):
    stack = torch.tensor([numbers, numbers[::-1]], dtype=torch.float32)
    low, high = sorted(data.draw(st.tuples(st.sampled_from(numbers), st.sampled_from(numbers))), key=abs)
    least, most = torch.tensor(low).abs(), torch.tensor(high).abs()
    kept = torch.where(stack.abs() >= least, stack, 0.0)
    for threshold in (least, least.expand(2)):
        assert torch.equal(at_least(stack, threshold), kept)
        assert not (at_least(stack, threshold).signbit() & (kept == 0) & (stack != 0)).any()
    assert torch.equal(between(stack, least, most), torch.where(stack.abs() <= most, kept, 0.0))


def test_a_share_is_rounded_down_but_never_to_nothing():
    assert [count_of(0.2, n) for n in (1, 4, 5, 9, 10)] == [1, 1, 1, 1, 2]
    assert count_of(1.0, 7) == 7


def test_equal_magnitudes_are_kept_together_and_zeros_stay_zeros():
    kept = keep_largest(torch.tensor([[2.0, -2.0, 2.0, 1.0, 0.0]]), 0.4)
    assert kept.tolist() == [[2.0, -2.0, 2.0, 0.0, 0.0]]
    assert keep_largest(torch.zeros(2, 3, 4), 0.5).count_nonzero() == 0


def test_thresholds_are_of_each_tensor_alone():
    small, large = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([10.0, 20.0, 30.0, 40.0])
    assert keep_largest(torch.stack([small, large]), 0.5).count_nonzero(-1).tolist() == [2, 2]


def test_breadcrumbs_window():
    entries = torch.arange(1.0, 11.0).unsqueeze(0)
    assert keep_middle(entries, 0.5, 0.2).nonzero()[:, 1].tolist() == [3, 4, 5, 6, 7]
    assert keep_middle(entries, 0.5, 0.05).nonzero()[:, 1].tolist() == [5, 6, 7, 8, 9]  # gamma n < 1: no outlier
    assert keep_middle(entries, 0.9, 0.3).nonzero()[:, 1].tolist() == list(range(9))  # fewer outliers, density kept
    assert torch.equal(keep_middle(entries, 1.0, 0.3), entries)
