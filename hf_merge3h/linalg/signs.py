"""Electing one sign for each entry, and averaging what agrees with it (TIES, arXiv:2306.01708, steps 2 and 3)."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from . import native

#: How a sign is elected: by the sign of the weighted sum, or by the number of experts on each side.
Election = Literal["sum", "count"]


def elect(terms: Float[Tensor, "task *shape"], election: Election) -> Float[Tensor, "*shape"]:
    """The elected signs, 1 or -1; a draw elects 1.

    >>> import torch
    >>> elect(torch.tensor([[1.0, -3.0], [1.0, -1.0], [-3.0, 3.0]]), "sum")
    tensor([-1., -1.])
    >>> elect(torch.tensor([[1.0, -3.0], [1.0, -1.0], [-3.0, 3.0]]), "count")
    tensor([ 1., -1.])
    """
    total = _total(terms if election == "sum" else terms.sign())
    return total.ge_(0).mul_(2).sub_(1)


def _total(rows: Float[Tensor, "task *shape"]) -> Float[Tensor, "*shape"]:
    """sum_t x_t, tasks in order, in memory of its own."""
    first, *rest = rows.unbind()
    total = first + (rest[0] if rest else 0.0)
    for row in rest[1:]:
        total += row
    return total


def weigh(
    vectors: Float[Tensor, "task batch *shape"], weights: Float[Tensor, "task"] | Float[Tensor, "task batch"]
) -> Float[Tensor, "task batch *shape"]:
    """w_t x_t, with one weight for each task, or for each task and tensor of the batch."""
    return vectors * weights.reshape(*weights.shape, *[1] * (vectors.ndim - weights.ndim))


def agreeing_sum(
    terms: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"] | Float[Tensor, "task batch"],
    signs: Float[Tensor, "batch *shape"],
    *,
    normalize: bool,
) -> Float[Tensor, "batch *shape"]:
    """The sum of the terms w_t x_t that have the elected sign, divided by the sum of their w_t if `normalize`.

    Where no expert agrees, or the agreeing weights cancel, there is nothing to divide by and the sum stands.

    A term that agrees times its sign is its magnitude, one that does not is negative: so the agreeing part is
    max(0, s w_t x_t), and no branch is taken at any entry, which would be mispredicted half of the time. The terms are
    overwritten.

    >>> import torch
    >>> terms = torch.tensor([[2.0], [4.0], [-1.0]])
    >>> agreeing_sum(terms, torch.ones(3), elect(terms, "sum"), normalize=True)
    tensor([3.])
    """
    shaped = weights.reshape(*weights.shape, *[1] * (terms.ndim - weights.ndim))
    agreeing = terms.mul_(signs).clamp_min_(0)
    total = _total(agreeing).mul_(signs)
    if not normalize:
        return total
    divisor, nothing = _total(agreeing.sign_().mul_(shaped)), native.CANCELLED * weights.abs().amax()
    if weights.device.type == "cpu" and bool(weights.amin() > nothing):
        # Weights over 0 do not cancel: where the divisor is 0, so is the sum, and divided by anything it stands.
        return total.div_(divisor.clamp_min_(float(nothing)))
    cancelled = divisor.abs().le_(
        native.CANCELLED * shaped.abs().amax(0)
    )  # 1 where there is nothing to divide by, else 0
    return total.div_(divisor.sub_(divisor * cancelled).add_(cancelled))
