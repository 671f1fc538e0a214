"""Points on a sphere, known by their inner products alone.

Every mean of the vectors x_1 .. x_T that this package takes on a sphere lies in their span, so that it is
sum_t c_t x_t, and the coefficients follow from the T x T Gram matrix. The vectors are read twice, whatever the number
of iterations, and factors (`LowRank`) serve as well as matrices do. A Gram matrix here is float64 [task, task, *batch]
and coefficients are [task, *batch], where *batch is whatever has an angle of its own: a tensor, or each of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from .low_rank import LowRank
from .precision import double

_CANCELLED = 1e-6  # lengths under this are rounding: a length from a Gram matrix is a square root, good to 1e-8

Gram = Float64[Tensor, "task task *batch"]
Coefficients = Float64[Tensor, "task *batch"]


def gram(vectors: Tensor, dims: tuple[int, ...]) -> Gram:
    """Inner products over `dims` of the single vectors, kept as sides of 1, accumulated in float64.

    >>> gram(torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]]]), (-1,)).squeeze()
    tensor([[25.,  3.],
            [ 3.,  1.]], dtype=torch.float64)
    """

    def inner(left: Tensor, right: Tensor) -> Tensor:
        product = double(left) * double(right)
        return product.sum(dims, keepdim=True) if dims else product

    return _symmetric(vectors, inner)


def low_rank_gram(vectors: Sequence[LowRank]) -> Gram:
    """Inner products of whole matrices from their factors."""
    return _symmetric(vectors, LowRank.inner)


def low_rank_row_gram(vectors: Sequence[LowRank]) -> Gram:
    """Inner products row by row, [task, task, *batch, m]: the rows of B_s (A_s A_t^T) with those of B_t."""

    def inner(left: LowRank, right: LowRank) -> Tensor:
        middle = double(left.right) @ double(right.right).mT
        return ((double(left.left) @ middle) * double(right.left)).sum(-1)

    return _symmetric(vectors, inner)


def _symmetric(vectors: Sequence[Any] | Tensor, inner: Callable[..., Tensor]) -> Tensor:
    n_tasks = len(vectors)
    pairs = {(s, t): inner(vectors[s], vectors[t]) for s in range(n_tasks) for t in range(s, n_tasks)}
    rows = [torch.stack([pairs[min(s, t), max(s, t)] for t in range(n_tasks)]) for s in range(n_tasks)]
    return torch.stack(rows)


def norms(products: Gram) -> Coefficients:
    """Lengths of the vectors."""
    return products.diagonal(dim1=0, dim2=1).movedim(-1, 0).clamp_min(0).sqrt()


def cosines(products: Gram, floor: float = 0.0) -> Gram:
    """Cosines of the angles between the vectors; a zero vector is at right angles to everything, itself included.

    Products of two lengths count as no less than `floor`, so that short vectors come nearer to right angles.
    """
    lengths = norms(products)
    scale = (lengths[:, None] * lengths[None]).clamp_min(floor)
    return torch.where(scale > 0, products / torch.where(scale > 0, scale, 1.0), 0.0).clamp(-1, 1)


def mean_cosine(products: Gram, floor: float = 0.0) -> Float64[Tensor, "*batch"]:
    """Mean over the pairs s < t of cos(x_s, x_t), see `cosines`."""
    n_tasks = len(products)
    upper = torch.ones(n_tasks, n_tasks, dtype=torch.bool, device=products.device).triu(1)
    return cosines(products, floor)[upper].mean(0)


def slerp_coefficients(products: Gram, t: float | Tensor, *, parallel: Callable[[Tensor], Tensor]) -> Coefficients:
    """Of sin((1-t) a) / sin(a) x_1 + sin(t a) / sin(a) x_2, a the angle; (1-t, t) where `parallel(cos a)`.

    Reference: K. Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.
    """
    cosine = cosines(products)[0, 1]
    angle = cosine.acos()
    straight = parallel(cosine)
    sine = torch.where(straight, 1.0, angle.sin())
    t = torch.as_tensor(t, dtype=products.dtype, device=products.device)
    first = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine)
    second = torch.where(straight, t, (t * angle).sin() / sine)
    return torch.stack([first, second])


def _broadcast(weights: Tensor, like: Tensor) -> Tensor:
    return double(weights).reshape(-1, *[1] * (like.ndim - 1))


def projected_mean_coefficients(products: Gram, weights: Tensor, eps: float) -> Coefficients:
    """Of (sum w_t |x_t|) m / |m| with m = sum w_t x_t / (|x_t| + eps); w_t themselves where |m| < eps."""
    lengths = norms(products)
    factors = _broadcast(weights, lengths).expand_as(lengths)
    direction = factors / (lengths + eps)
    size = _norm_in_span(products, direction)
    opposed = size < max(eps, _CANCELLED)
    scaled = direction * ((factors * lengths).sum(0) / torch.where(opposed, 1.0, size))
    return torch.where(opposed, factors, scaled)


def karcher_coefficients(products: Gram, weights: Tensor, *, max_iter: int, tol: float) -> Coefficients:
    """Of the Karcher mean of the directions, times the weighted mean length.

    The mean u of unit vectors u_t on the sphere minimises sum_t w_t angle(u, u_t)^2: follow the mean of the tangents
    log_u(u_t) = a_t / sin(a_t) (u_t - cos(a_t) u) along a great circle until it is shorter than `tol`. Zero vectors
    have no direction and take no part; where the directions cancel there is no mean one, and w_t are the coefficients.

    Reference: H. Karcher, "Riemannian center of mass and mollifier smoothing", 1977.
    """
    lengths = norms(products)
    present = lengths > 0
    factors = _broadcast(weights, lengths) * present
    total = factors.sum(0)
    factors = factors / torch.where(total > 0, total, 1.0)
    inverse = torch.where(present, 1.0 / torch.where(present, lengths, 1.0), 0.0)
    unit_gram = products * inverse[:, None] * inverse[None]

    point = factors  # coefficients of u over the unit vectors
    size = _norm_in_span(unit_gram, point)
    cancelled = size < _CANCELLED
    point = point / torch.where(cancelled, 1.0, size)
    for _ in range(max_iter):
        cosine = _apply(unit_gram, point).clamp(-1, 1)
        angle = cosine.acos()
        sine = angle.sin()
        away = (angle >= tol) & (
            sine > _CANCELLED
        )  # at the point itself there is no tangent; opposite it, no direction
        slopes = torch.where(away, factors * angle / torch.where(away, sine, 1.0), 0.0)
        tangent = slopes - (slopes * cosine).sum(0) * point
        step = _norm_in_span(unit_gram, tangent)
        moving = step >= tol
        moved = step.cos() * point + step.sin() / torch.where(moving, step, 1.0) * tangent
        size = _norm_in_span(unit_gram, moved)
        point = torch.where(moving & (size > 0), moved / torch.where(size > 0, size, 1.0), point)
    return torch.where(cancelled, factors, point * inverse * (factors * lengths).sum(0))


def _apply(products: Gram, coefficients: Coefficients) -> Coefficients:
    """Inner products of sum_t c_t x_t with each x_s."""
    return (products * coefficients[None]).sum(1)


def _norm_in_span(products: Gram, coefficients: Coefficients) -> Float64[Tensor, "*batch"]:
    """Length of sum_t c_t x_t."""
    return (coefficients * _apply(products, coefficients)).sum(0).clamp_min(0).sqrt()
