"""The best approximation of a matrix at a rank (Eckart-Young), from the matrix or from its factors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .low_rank import LowRank
from .precision import double


def compress(delta: Float[Tensor, "*batch m n"] | LowRank, rank: int | None) -> tuple[LowRank, Float[Tensor, "*batch"]]:
    """The nearest matrix of rank at most `rank`, and how far it is.

    With U S V^T the singular value decomposition, it is U_r S_r V_r^T. Dense matrices are decomposed through the
    float64 Gram matrix of their shorter side, factors through QR of both and an SVD of the small core.

    Args:
        delta: matrices [*batch, m, n], dense or as factors.
        rank: columns to keep; None keeps the numerical rank, singular values above max(m, n) * eps * S_max with the
            eps of float32 (of a batch, the greatest numerical rank).

    Returns:
        Factors in float32 whose columns and rows have equal norms (which rounds best in 16 bits), and the relative
        residual |delta - result| / |delta| in the Frobenius norm, float64 [*batch] (0 where delta is 0).

    Example:
        >>> factors, residual = compress(torch.diag(torch.tensor([3.0, 4.0, 0.0])), rank=1)
        >>> factors.rank, round(residual.item(), 6)
        (1, 0.6)
    """
    left, values, right = _decompose_factors(delta) if isinstance(delta, LowRank) else _decompose_dense(delta)
    m, n = delta.shape[-2:]
    if rank is None:
        floor = max(m, n) * torch.finfo(torch.float32).eps * values[..., :1]
        kept = int((values > floor).sum(-1).max()) if values.numel() else 0
    else:
        kept = min(rank, values.shape[-1])
    energy = values.square()
    total = energy.sum(-1)
    residual = (energy[..., kept:].sum(-1) / total.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
    root = values[..., :kept].sqrt()
    result = LowRank(
        (left[..., :kept] * root.unsqueeze(-2)).float().contiguous(),
        (root.unsqueeze(-1) * right[..., :kept, :]).float().contiguous(),
    )
    return result.to(delta.device), residual


def balance(delta: LowRank) -> LowRank:
    """Scale the factors so that each column of the left one has the norm of its row in the right one.

    The product is the same; columns that add nothing (a zero column or row; of a stack, in all its matrices) are
    dropped. Factors that are balanced to one part in a thousand keep their bits.
    """
    return balance_each(LowRank(delta.left.unsqueeze(0), delta.right.unsqueeze(0)))[0]


def balance_each(stack: LowRank) -> list[LowRank]:
    """`balance` of each element of a batch [batch, (matrices,) m, n], in one pass over all of them."""
    left, right = stack.left.square().sum(-2).sqrt(), stack.right.square().sum(-1).sqrt()
    useful = (left > 0) & (right > 0)
    scale = torch.where(useful, (right / left).sqrt(), 1.0)
    even = ((left - right).abs() <= 1e-3 * right) | ~useful
    whole = even.flatten(1).all(-1)
    if not whole.all():
        scale = torch.where(whole.view(-1, *[1] * (scale.ndim - 1)), 1.0, scale)
        stack = LowRank(stack.left * scale.unsqueeze(-2), stack.right / scale.unsqueeze(-1))
    used = useful.unflatten(0, (len(useful), 1)).flatten(1, -2).any(1)
    full = used.all(-1).tolist()
    return [stack[at] if every else _columns(stack[at], used[at]) for at, every in enumerate(full)]


def _columns(delta: LowRank, use: Tensor) -> LowRank:
    """Those columns of the left factor, and rows of the right one."""
    kept = use.nonzero().flatten()
    return LowRank(delta.left.index_select(-1, kept), delta.right.index_select(-2, kept))


def _decompose_factors(delta: LowRank) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V^T in float64 from QR of both factors and the SVD of the core between them."""
    left, upper = torch.linalg.qr(double(delta.left))
    right, lower = torch.linalg.qr(double(delta.right).mT)
    u, values, vh = torch.linalg.svd(upper @ lower.mT, full_matrices=False)
    return left @ u, values, vh @ right.mT


def _decompose_dense(delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V^T in float64; vectors of singular values under 1e-8 S_max are not orthonormal, and nobody keeps them."""
    if delta.shape[-2] < delta.shape[-1]:
        right, values, left = _decompose_dense(delta.mT)
        return left.mT, values, right.mT
    matrix = double(delta)
    squares, vectors = torch.linalg.eigh(matrix.mT @ matrix)
    vectors = vectors.flip(-1)  # eigh sorts upwards
    left = matrix @ vectors
    values = squares.flip(-1).clamp_min(0).sqrt()
    return left / values.clamp_min(torch.finfo(torch.float64).tiny).unsqueeze(-2), values, vectors.mT
