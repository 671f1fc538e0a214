"""Best approximations at a rank, against torch's SVD in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_merge3h.linalg.compress import balance, balance_each, compress
from hf_merge3h.linalg.low_rank import LowRank


def best(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = (u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]
    return kept, s[..., rank:].norm(dim=-1) / s.norm(dim=-1)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6), (3, 8, 5), (2, 3, 4, 9)])
@pytest.mark.parametrize("rank", [1, 3, 100])
@pytest.mark.parametrize("low", [False, True])
def test_is_eckart_young(shape: tuple[int, ...], rank: int, low: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(*shape[:-2], *side, generator=generator) for side in ((shape[-2], 9), (9, shape[-1])))
    delta = LowRank(left, right) if low else left @ right
    factors, residual = compress(delta, rank)
    expected, lost = best(left @ right, rank)
    torch.testing.assert_close(factors.dense().double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(residual, lost, rtol=1e-4, atol=2e-7)
    assert factors.rank == min(rank, *shape[-2:])
    torch.testing.assert_close(factors.left.norm(dim=-2), factors.right.norm(dim=-1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("low", [False, True])
def test_numerical_rank(low: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(40, 3, generator=generator), torch.randn(3, 30, generator=generator)
    wide = LowRank(torch.cat([left, left], 1), torch.cat([right, right], 0))  # six columns, rank three
    factors, residual = compress(wide if low else wide.dense(), None)
    assert factors.rank == 3
    assert residual < 1e-6
    torch.testing.assert_close(factors.dense(), 2 * left @ right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("delta", [torch.zeros(4, 3), LowRank.zeros((4, 3)), LowRank.zeros((2, 4, 3))])
def test_zero(delta: Tensor | LowRank) -> None:
    factors, residual = compress(delta, None)
    assert (factors.rank, factors.shape) == (0, delta.shape)
    assert not residual.any()


def test_balance() -> None:
    left = torch.tensor([[1e4, 0.0, 3.0], [1e4, 0.0, 4.0]])
    right = torch.tensor([[1e-4, 1e-4], [7.0, 7.0], [3.0, 4.0]])
    balanced = balance(LowRank(left, right))
    assert balanced.rank == 2  # the zero column is gone
    torch.testing.assert_close(balanced.dense(), left @ right)
    torch.testing.assert_close(balanced.left.norm(dim=0), balanced.right.norm(dim=1))
    again = balance(balanced)
    assert torch.equal(again.left, balanced.left)
    assert torch.equal(again.right, balanced.right)


def test_balancing_a_batch_is_balancing_each() -> None:
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(3, 2, 5, 4, generator=draw), torch.randn(3, 2, 4, 6, generator=draw)
    left[1, :, :, 2] = 0  # adds nothing in both matrices of this stack,
    left[2, 0, :, 1] = 0  # here in one
    each = balance_each(LowRank(left, right))
    assert [stack.rank for stack in each] == [4, 3, 4]
    for stack, a, b in zip(each, left, right, strict=True):
        alone = balance(LowRank(a, b))
        assert torch.equal(stack.left, alone.left)
        assert torch.equal(stack.right, alone.right)
        torch.testing.assert_close(stack.dense(), a @ b)
