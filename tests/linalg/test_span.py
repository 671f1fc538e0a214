"""Combinations of factors: exact where float32 would lose digits, fast where not."""

from __future__ import annotations

import pytest
import torch

from hf_merge3h import get_method
from hf_merge3h.linalg.low_rank import LowRank
from hf_merge3h.linalg.span import Span


def terms(spread: float, batch: int = 3) -> list[LowRank]:
    """Two terms of rank 4; of the last matrix the left factors' columns are nearly equal."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(2):
        left, right = torch.randn(batch, 40, 4, generator=generator), torch.randn(batch, 4, 30, generator=generator)
        left[-1] = left[-1, :, :1] + spread * left[-1]
        found.append(LowRank(left, right))
    return found


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4])
def test_a_combination_is_that_of_float64(spread: float) -> None:
    factors = terms(spread)
    span = Span.of(factors)
    over = torch.linalg.inv(
        torch.linalg.cholesky(span.gram_left).mT
    )  # left C is orthonormal: large numbers that cancel
    found = span.combine(over, over, factors[0].left)
    exact_left = torch.cat([each.left for each in factors], -1).double() @ over
    exact_right = over.mT @ torch.cat([each.right for each in factors], -2).double()
    for value, exact in ((found.left, exact_left), (found.right, exact_right)):
        error = torch.linalg.matrix_norm(value.double() - exact) / torch.linalg.matrix_norm(exact)
        assert error.max() < 1e-6
    assert found.left.dtype == torch.float32


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_one_ill_conditioned_matrix_does_not_change_the_others(spread: float) -> None:
    merge = get_method("tsv_merge").low_rank
    options = {"scale": 1.0, "denoise": False, "noise": None}
    together = merge(tuple(terms(spread)), torch.ones(2), **options)  # type: ignore[misc]
    for index in range(3):
        alone = merge(tuple(each[index : index + 1] for each in terms(spread)), torch.ones(2), **options)  # type: ignore[misc]
        assert torch.equal(together.left[index], alone.left[0])
        assert torch.equal(together.right[index], alone.right[0])


def test_inner_products_of_a_combination() -> None:
    factors = terms(1.0)
    span = Span.of(factors)
    over = torch.randn(3, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = span.combine(over, over, factors[0].left)
    dense = torch.stack([each.dense().double().flatten(1) for each in (*factors, found)], 1)
    torch.testing.assert_close(found.gram(), dense @ dense.mT, rtol=1e-5, atol=1e-4)
