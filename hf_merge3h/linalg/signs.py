"""Electing one sign for each entry, and averaging what agrees with it (TIES, arXiv:2306.01708, steps 2 and 3)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: How a sign is elected: by the sign of the weighted sum, or by the number of experts on each side.
Election = Literal["sum", "count"]


def elect(terms: Float[Tensor, "task *shape"], election: Election) -> Bool[Tensor, "*shape"]:
    """True where the elected sign is +; a draw elects +.

    >>> elect(torch.tensor([[1.0, -3.0], [1.0, -1.0], [-3.0, 3.0]]), "sum")
    tensor([False, False])
    >>> elect(torch.tensor([[1.0, -3.0], [1.0, -1.0], [-3.0, 3.0]]), "count")
    tensor([ True, False])
    """
    total = torch.zeros_like(terms[0])
    for term in terms:
        total += term if election == "sum" else term.sign()
    return total >= 0


def agreement(term: Float[Tensor, "*shape"], positive: Bool[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Where a term has the elected sign; a zero has none."""
    return torch.where(positive, term > 0, term < 0)


def weigh(
    vectors: Float[Tensor, "task batch *shape"], weights: Float[Tensor, "task"] | Float[Tensor, "task batch"]
) -> Float[Tensor, "task batch *shape"]:
    """w_t x_t, with one weight for each task, or for each task and tensor of the batch."""
    return vectors * weights.reshape(*weights.shape, *[1] * (vectors.ndim - weights.ndim))


def agreeing_sum(
    terms: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"] | Float[Tensor, "task batch"],
    positive: Bool[Tensor, "batch *shape"],
    *,
    normalize: bool,
) -> Float[Tensor, "batch *shape"]:
    """The sum of the terms w_t x_t that have the elected sign, divided by the sum of their w_t if `normalize`.

    Where no expert agrees, or the agreeing weights cancel, there is nothing to divide by and the sum stands.

    >>> terms = torch.tensor([[2.0], [4.0], [-1.0]])
    >>> agreeing_sum(terms, torch.ones(3), elect(terms, "sum"), normalize=True)
    tensor([3.])
    """
    weights = weights.reshape(*weights.shape, *[1] * (terms.ndim - weights.ndim))
    total, divisor = torch.zeros_like(terms[0]), torch.zeros_like(terms[0])
    for term, weight in zip(terms, weights, strict=True):
        agrees = agreement(term, positive)
        total += term * agrees
        if normalize:
            divisor += weight * agrees
    if not normalize:
        return total
    return total / divisor.masked_fill_(divisor.abs() <= 1e-6 * weights.abs().amax(0), 1.0)
