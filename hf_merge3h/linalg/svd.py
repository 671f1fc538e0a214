"""Singular triplets of many matrices at once, from the matrices or from their factors, without an SVD.

With D^T D = W diag(s^2) W^T, the right singular vectors of D are W, the left ones D W / s. Squaring costs half the
digits: float64 has 16, and what float32 can tell of a matrix is 7 of them, so nothing is lost. Golub and Van Loan,
"Matrix Computations", 4th edition, section 8.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .parallel import one_thread
from .precision import EPS, double, safe_inverse

#: From this many singular values on a float32 eigendecomposition saves enough to be tried first.
LARGE = 512
#: Float32 is trusted with leading eigenvalues of a Gram matrix down to this share of the largest.
_TRUSTED = 1 / 64

#: Directions of a factor whose columns have unit norm that lie under this, relative to the largest, are rounding.
_FACTOR_FLOOR = 1e-7


class Triplets(NamedTuple):
    """The leading singular triplets: left [*batch, m, k], values [*batch, k] falling, right [*batch, n, k].

    What lies at or under the numerical rank has the value 0 and zero columns.
    """

    left: Float[Tensor, "*batch m k"]
    values: Float[Tensor, "*batch k"]
    right: Float[Tensor, "*batch n k"]


def rank_floor(largest: Float[Tensor, "*batch"], m: int, n: int) -> Float[Tensor, "*batch"]:
    """Singular values at or under this are rounding: max(m, n) * eps(float32) * S_max."""
    return largest * (max(m, n) * EPS)


def falling_eigh(gram: Float[Tensor, "*batch k k"]) -> tuple[Float[Tensor, "*batch k"], Float[Tensor, "*batch k k"]]:
    """Eigenvalues in falling order, none negative, and eigenvectors of symmetric positive matrices."""
    if gram.device.type == "cpu" and gram.shape[-1] < LARGE:
        with one_thread():
            values, vectors = torch.linalg.eigh(gram)
    else:
        values, vectors = torch.linalg.eigh(gram)
    return values.flip(-1).clamp_min(0), vectors.flip(-1)


def leading_triplets(
    delta: Float[Tensor, "*batch m n"], k: int, *, floor: Float[Tensor, "*batch"] | None = None
) -> Triplets:
    """The first k singular triplets of dense matrices, through the Gram matrix of the shorter side.

    Float64; but where float32 matrices are large and their first k singular values of one order, as those of full
    fine-tuning mostly are, vectors come from a float32 decomposition, at half the cost, and are float32.

    Args:
        delta: matrices.
        k: how many triplets at most.
        floor: singular values at or under this count as zero too (else only those under the numerical rank).

    Example:
        >>> leading_triplets(torch.diag(torch.tensor([3.0, 4.0, 0.0])), 3).values
        tensor([4., 3., 0.], dtype=torch.float64)
    """
    m, n = delta.shape[-2:]
    if m < n:
        left, values, right = leading_triplets(delta.mT, k, floor=floor)
        return Triplets(right, values, left)
    large = delta.dtype == torch.float32 and n >= LARGE and 0 < k < n
    if large and delta.ndim > 2:  # one by one: how a matrix is decomposed must not depend on the others
        bounds = None if floor is None else floor.expand(delta.shape[:-2]).flatten()
        each = [
            leading_triplets(matrix, k, floor=None if bounds is None else bounds[place])
            for place, matrix in enumerate(delta.flatten(0, -3))
        ]
        return _stacked(each, delta.shape[:-2])
    found = _trusted_eigh(delta, k) if large else None
    if found is None:
        delta = double(delta)
        found = falling_eigh(delta.mT @ delta)
    squares, vectors = found
    values = squares.sqrt()
    keep = _above(values, rank_floor(values[..., :1], m, n), floor)[..., :k]
    values = values[..., :k] * keep
    right = vectors[..., :k] * keep.unsqueeze(-2)
    left = delta @ (right * safe_inverse(values, keep).unsqueeze(-2).to(right))
    return Triplets(left, values, right)


def _stacked(each: Sequence[Triplets], batch: torch.Size) -> Triplets:
    """Triplets of single matrices as those of a batch, in the higher of their precisions."""

    def join(parts: Sequence[Tensor]) -> Tensor:
        dtype = torch.float64 if any(part.dtype == torch.float64 for part in parts) else torch.float32
        device = next(part.device for part in parts if part.dtype == dtype)
        return torch.stack([part.to(device=device, dtype=dtype) for part in parts]).unflatten(0, batch)

    return Triplets(*map(join, zip(*each, strict=True)))


def _trusted_eigh(delta: Float[Tensor, "m n"], k: int) -> tuple[Tensor, Tensor] | None:
    """The eigendecomposition of D^T D in float32, or None where rounding could reach the first k vectors."""
    gram = delta.mT @ delta
    # A look before the leap: the mean of all eigenvalues against the norm of the Gram matrix, which the largest make.
    mean = gram.diagonal(dim1=-2, dim2=-1).mean(-1)
    spread = torch.linalg.matrix_norm(gram) / gram.shape[-1] ** 0.5
    if not mean > spread * _TRUSTED**0.5:
        return None
    squares, vectors = falling_eigh(gram)
    return (squares, vectors) if squares[k - 1] > squares[0] * _TRUSTED else None


def factored_triplets(
    gram_left: Float[Tensor, "*batch r r"],
    gram_right: Float[Tensor, "*batch r r"],
    m: int,
    n: int,
    *,
    floor: Float[Tensor, "*batch"] | None = None,
) -> Triplets:
    """The singular triplets of B A from B^T B and A A^T alone, as coefficients: U = B left, V = A^T right.

    A = L Q^T with A A^T = L L^T (L = E sqrt(l) from its eigenvectors, Q orthonormal). Then (B A)^T (B A) has the
    eigenvalues of L^T (B^T B) L = W diag(s^2) W^T, and V = Q W, U = B L W / s. Before that the rows of A are brought
    to norm 1 (and the columns of B the other way), so that it does not matter how a factorisation shares out sizes.

    Args:
        gram_left: B^T B, float64.
        gram_right: A A^T, float64.
        m: rows of B.
        n: columns of A.
        floor: singular values at or under this count as zero too.
    """
    sizes = gram_right.diagonal(dim1=-2, dim2=-1).sqrt()
    sizes = torch.where(sizes > 0, sizes, 1.0)
    outer = sizes.unsqueeze(-1) * sizes.unsqueeze(-2)
    lengths, axes = falling_eigh(gram_right / outer)
    roots = lengths.sqrt()
    known = roots > _FACTOR_FLOOR * roots[..., :1]
    lower = axes * (roots * known).unsqueeze(-2)
    squares, turn = falling_eigh(lower.mT @ (gram_left * outer) @ lower)
    values = squares.sqrt()
    keep = _above(values, rank_floor(values[..., :1], m, n), floor)
    values = values * keep
    turn = turn * keep.unsqueeze(-2)
    left = sizes.unsqueeze(-1) * (lower @ turn) * safe_inverse(values, keep).unsqueeze(-2)
    right = (axes * safe_inverse(roots, known).unsqueeze(-2)) @ turn / sizes.unsqueeze(-1)
    return Triplets(left, values, right)


def first_triplets(triplets: Triplets, ranks: Int[Tensor, "*batch"]) -> Triplets:
    """The first k triplets of each matrix; the columns up to the largest k of the batch stay, as zeros."""
    width = min(int(ranks.max()), triplets.values.shape[-1]) if ranks.numel() else 0
    use = torch.arange(width, device=ranks.device) < ranks.unsqueeze(-1)
    column = use.unsqueeze(-2)
    return Triplets(
        triplets.left[..., :width] * column, triplets.values[..., :width] * use, triplets.right[..., :width] * column
    )


def block_diagonal(blocks: Sequence[Tensor]) -> Tensor:
    """Batched matrices [*batch, p_t, k_t] along the diagonal of [*batch, sum p_t, sum k_t], zeros elsewhere."""
    rows, columns = sum(block.shape[-2] for block in blocks), sum(block.shape[-1] for block in blocks)
    result = blocks[0].new_zeros(*blocks[0].shape[:-2], rows, columns)
    row = column = 0
    for block in blocks:
        down, across = block.shape[-2:]
        result[..., row : row + down, column : column + across] = block
        row, column = row + down, column + across
    return result


def _above(
    values: Float[Tensor, "*batch k"], floor: Float[Tensor, "*batch one"], other: Float[Tensor, "*batch"] | None
) -> Tensor:
    """Which singular values count: those above both floors."""
    if other is not None:
        floor = torch.maximum(floor, other.to(floor).unsqueeze(-1))
    return values > floor
