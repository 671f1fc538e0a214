"""Electing one sign for each entry, and averaging what agrees with it (TIES, arXiv:2306.01708, steps 2 and 3)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

#: How a sign is elected: by the sign of the weighted sum, or by the number of experts on each side.
Election = Literal["sum", "count"]


def elect(terms: Float[Tensor, "task *shape"], election: Election) -> Float[Tensor, "*shape"]:
    """The elected signs, 1 or -1; a draw elects 1.

    >>> elect(torch.tensor([[1.0, -3.0], [1.0, -1.0], [-3.0, 3.0]]), "sum")
    tensor([-1., -1.])
    >>> elect(torch.tensor([[1.0, -3.0], [1.0, -1.0], [-3.0, 3.0]]), "count")
    tensor([ 1., -1.])
    """
    total = torch.zeros_like(terms[0])
    for term in terms:
        total += term if election == "sum" else term.sign()
    return total.ge_(0).mul_(2).sub_(1)


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
    max(0, s w_t x_t), and no branch is taken at any entry, which would be mispredicted half of the time.

    >>> terms = torch.tensor([[2.0], [4.0], [-1.0]])
    >>> agreeing_sum(terms, torch.ones(3), elect(terms, "sum"), normalize=True)
    tensor([3.])
    """
    weights = weights.reshape(*weights.shape, *[1] * (terms.ndim - weights.ndim))
    total, divisor = torch.zeros_like(terms[0]), torch.zeros_like(terms[0])
    for term, weight in zip(terms, weights, strict=True):
        agreeing = (term * signs).clamp_min_(0)
        total += agreeing
        if normalize:
            divisor += agreeing.sign_().mul_(weight)
    total *= signs
    if not normalize:
        return total
    nothing = divisor.abs().le_(1e-6 * weights.abs().amax(0))  # 1 where there is nothing to divide by, else 0
    return total.div_(divisor.sub_(divisor * nothing).add_(nothing))
