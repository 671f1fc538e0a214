"""Entries are dropped with the right probabilities, and what is kept makes up for them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_merge3h.linalg.dropping import by_magnitude, keep_probabilities, rescaled

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


@given(st.lists(FLOATS, min_size=1, max_size=40))
def test_the_order_by_magnitude_is_stable(numbers):
    rows = torch.tensor([[numbers, numbers[::-1]]], dtype=torch.float32)
    for each in (rows, rows.bfloat16().float()):
        assert torch.equal(by_magnitude(each), each.abs().argsort(dim=-1, stable=True))


@pytest.mark.parametrize("shape", [(), (5,), (4, 1), (4, 6), (3, 2, 2, 2)])
def test_probabilities_lie_in_the_window_and_average_to_the_density(shape):
    stack = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    found = keep_probabilities(stack, 0.5, 0.25)
    assert found.shape == stack.shape
    assert found.min() >= 0.25
    assert found.max() <= 0.75
    torch.testing.assert_close(found.mean(), torch.tensor(0.5))


def test_probabilities_grow_with_magnitude_within_a_row():
    found = keep_probabilities(torch.tensor([[[1.0, -3.0, 2.0], [30.0, 10.0, -20.0]]]), 0.5, 0.2)
    torch.testing.assert_close(found, torch.tensor([[[0.3, 0.7, 0.5], [0.7, 0.3, 0.5]]]))


def test_probabilities_are_clamped_so_that_no_entry_grows_beyond_bounds():
    stack = torch.arange(1.0, 102.0).unsqueeze(0)
    assert keep_probabilities(stack, 0.1, 0.5).min() == pytest.approx(0.01)
    assert keep_probabilities(stack, 0.9, 0.5).max() == 1.0


def test_rescaling_rules():
    stack, kept = torch.tensor([[1.0, -2.0, 5.0]]), torch.tensor([[True, True, False]])
    assert rescaled(stack, kept, 0.5, "probability").tolist() == [[2.0, -4.0, 0.0]]
    assert rescaled(stack, kept, 0.5, "none").tolist() == [[1.0, -2.0, 0.0]]
    torch.testing.assert_close(rescaled(stack, kept, 0.5, "l1").abs().sum(), stack.abs().sum())
    assert not rescaled(stack, torch.zeros_like(kept), 0.5, "l1").any()
