"""Dropping entries by lot, each with the same probability (DARE) or by its rank (DELLA), and what makes up for it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from . import native
from .blocks import magnitudes, over_blocks
from .precision import double
from .random import bernoulli, uniform
from .signs import weigh
from .sparsify import flat, row_length, spread

#: What is done to the kept entries, so that dropping others does not shrink the whole: divide each by the probability
#: of being kept; or multiply all of them by one factor that restores the sum of magnitudes; or nothing.
Rescale = Literal["probability", "l1", "none"]

_LEAST_PROBABILITY = 0.01  # a kept entry is divided by its probability: never more than a hundredfold


def drop_by_lot(
    vectors: Float[Tensor, "task batch *shape"],
    keys: Int[Tensor, "task batch"],
    densities: Sequence[float],
    rule: Rescale,
    *,
    start: int = 0,
) -> Float[Tensor, "task batch *shape"]:
    """DARE: keep each entry with the probability `density`.

    Args:
        vectors: task vectors, or a part of them.
        keys: of the masks.
        densities: of each expert.
        rule: what is done to the kept entries.
        start: where in the flattened tensor the part begins.
    """
    result = torch.empty_like(vectors)
    for target, vector, key, density in zip(result, vectors, keys, densities, strict=True):
        if vector.numel() and native.takes(vector, target):
            factor = 1.0 / density if rule == "probability" else 1.0
            for entries, own, place in zip(vector, key.tolist(), target, strict=True):
                native.drop_by_lot(entries, own, start, density, factor, place)
            _restore(vector, target, rule)
        else:
            drawn = bernoulli(key, density, vector.shape[1:], start=start)
            target.copy_(rescaled(vector, drawn, density, rule))
    return result


def drop_by_rank(
    vectors: Float[Tensor, "task batch *shape"],
    keys: Int[Tensor, "task batch"],
    densities: Sequence[float],
    windows: Sequence[float],
    rule: Rescale,
    *,
    start: int = 0,
) -> Float[Tensor, "task batch *shape"]:
    """DELLA's MagPrune: keep each entry with a probability that grows with its rank; density 1 keeps all.

    Args:
        vectors: task vectors, or whole rows of them.
        keys: of the masks.
        densities: of each expert.
        windows: half the width of each expert's window of probabilities.
        rule: what is done to the kept entries.
        start: where in the flattened tensor the rows begin.
    """
    result = torch.empty_like(vectors)
    for target, vector, key, density, epsilon in zip(result, vectors, keys, densities, windows, strict=True):
        if density >= 1:
            target.copy_(vector)
        elif vector.numel() and native.takes(vector, target):
            probabilities, factors = _settings(row_length(vector.shape[1:]), density, epsilon, rule)
            for rows, own, place in zip(_rows(vector), key.tolist(), _rows(target), strict=True):
                native.drop_by_rank(rows, own, start, probabilities, factors, place)
            _restore(vector, target, rule)
        else:
            probability = keep_probabilities(vector, density, epsilon)
            drawn = uniform(key, vector[0].numel(), start=start).reshape(vector.shape)
            target.copy_(rescaled(vector, drawn.lt_(probability), probability, rule))
    return result


@functools.lru_cache(16)
def _settings(
    length: int, density: float, epsilon: float, rule: Rescale
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Of each rank the probability, and what the entry is multiplied by; all blocks of a tensor have the same."""
    probabilities = probabilities_by_rank(torch.empty(length), density, epsilon)
    return probabilities, 1.0 / probabilities if rule == "probability" else torch.ones_like(probabilities)


def _rows(stack: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch row n"]:
    """A row is what one index of the first dimension holds (an output of a layer), or all of a vector."""
    return stack.reshape(len(stack), -1, row_length(stack.shape[1:]))


def probabilities_by_rank(like: Float[Tensor, "*batch n"], density: float, epsilon: float) -> Float[Tensor, "n"]:
    """MagPrune's probabilities for the ranks 0 to n - 1: density - epsilon to density + epsilon, linear.

    One entry has the probability `density`.

    >>> probabilities_by_rank(torch.empty(3), 0.5, 0.25)
    tensor([0.2500, 0.5000, 0.7500])
    """
    length = like.shape[-1]
    if length < 2:
        return like.new_full((length,), density)
    steps = torch.arange(length, device=like.device, dtype=like.dtype) * (2 * epsilon / (length - 1))
    return (steps + (density - epsilon)).clamp(min(_LEAST_PROBABILITY, density), 1.0)


def keep_probabilities(
    stack: Float[Tensor, "batch *shape"], density: float, epsilon: float
) -> Float[Tensor, "batch *shape"]:
    """MagPrune: for each entry the probability at the rank of its magnitude within its row, equal ones in order.

    >>> keep_probabilities(torch.tensor([[1.0, -4.0, 2.0]]), 0.5, 0.25)
    tensor([[0.2500, 0.7500, 0.5000]])
    """
    if not stack.numel():
        return torch.empty_like(stack)
    rows = _rows(stack)
    by_rank = probabilities_by_rank(rows, density, epsilon)
    return torch.empty_like(rows).scatter_(-1, by_magnitude(rows), by_rank.expand_as(rows)).reshape(stack.shape)


def by_magnitude(rows: Float[Tensor, "*batch n"]) -> Int[Tensor, "*batch n"]:
    """The order that sorts each row by magnitude, stable.

    On the CPU numpy's radix sort of 16-bit integers is used twice, by the lower and by the upper half of the bit
    patterns: a fifth of the time of torch's sort.

    >>> by_magnitude(torch.tensor([[3.0, -1.0, 1.0, 2.0]]))
    tensor([[1, 2, 3, 0]])
    """
    if rows.device.type != "cpu" or rows.dtype != torch.float32:
        return rows.abs().argsort(dim=-1, stable=True)
    halves = rows.contiguous().view(torch.int16).unflatten(-1, (-1, 2))
    lower, upper = (halves[..., half].contiguous() for half in ((0, 1) if sys.byteorder == "little" else (1, 0)))
    upper = upper & 0x7FFF  # not in place: of a single entry it is the entry itself
    if not lower.numpy().view(np.uint16).max(initial=0):
        return _radix_order(upper)
    first = _radix_order(lower)
    return first.gather(-1, _radix_order(upper.gather(-1, first)))


def _radix_order(halves: Int[Tensor, "*batch n"]) -> Int[Tensor, "*batch n"]:
    return torch.from_numpy(halves.numpy().view(np.uint16).argsort(axis=-1, kind="stable"))


def as_numbers(kept: Shaped[Tensor, "*shape"], like: Tensor) -> Float[Tensor, "*shape"]:
    """1 for true and 0 for false; on the CPU by numpy, whose conversion uses the vector unit."""
    if kept.dtype != torch.bool or kept.device.type != "cpu" or like.dtype != torch.float32:
        return kept.to(like.dtype)
    return torch.from_numpy(kept.numpy().astype(np.float32))


def masked(stack: Float[Tensor, "*shape"], kept: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The entries times a mask of true and false, or of 1 and 0."""
    return stack * as_numbers(kept, stack)


def masked_and_weighed(
    vectors: Float[Tensor, "task batch n"], kept: Shaped[Tensor, "task batch n"], factors: Float[Tensor, "task batch"]
) -> Float[Tensor, "task batch n"]:
    """The entries times a mask and a factor for each task and tensor.

    >>> masked_and_weighed(torch.ones(1, 1, 2), torch.tensor([[[True, False]]]), torch.tensor([[3.0]]))
    tensor([[[3., 0.]]])
    """
    if kept.dtype == torch.bool and kept.is_contiguous() and native.takes(vectors, factors):
        return native.keep(vectors, kept, factors)
    return weigh(masked(vectors, kept), factors)


def rescaled(
    stack: Float[Tensor, "batch *shape"],
    kept: Shaped[Tensor, "batch *shape"],
    probability: float | Float[Tensor, "batch *shape"],
    rule: Rescale,
) -> Float[Tensor, "batch *shape"]:
    """The kept entries, rescaled by the rule; zeros elsewhere.

    Args:
        stack: the tensors.
        kept: true, or 1, where an entry is kept.
        probability: with which it was.
        rule: what to do with those.
    """
    result = masked(stack, kept)
    if rule == "probability":
        return result * (1.0 / probability)
    _restore(stack, result, rule)
    return result


def _restore(before: Float[Tensor, "batch *shape"], kept: Float[Tensor, "batch *shape"], rule: Rescale) -> None:
    """With the rule "l1", multiply what is kept so that each tensor has its sum of magnitudes again."""
    if rule == "l1":
        kept.mul_(spread(l1_factor(l1_norms(before), l1_norms(kept)).to(kept), kept))


def restored(
    before: Float[Tensor, "task batch *shape"], kept: Float[Tensor, "task batch *shape"]
) -> Float[Tensor, "task batch *shape"]:
    """What is kept of each tensor, times what restores the sum of magnitudes that it had before.

    >>> restored(torch.tensor([[[1.0, -3.0, 0.0]]]), torch.tensor([[[0.0, -3.0, 0.0]]]))
    tensor([[[ 0., -4.,  0.]]])
    """
    factors = [l1_factor(l1_norms(stack), l1_norms(left)) for stack, left in zip(before, kept, strict=True)]
    return torch.stack([left * spread(factor.to(left), left) for left, factor in zip(kept, factors, strict=True)])


def l1_norms(stack: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
    """Sums of magnitudes, float64."""
    if stack.device.type == "cpu" and stack.dtype == torch.float32:
        return over_blocks(magnitudes, stack.unsqueeze(0), row_length(stack.shape[1:]))[0]
    return double(flat(stack).abs()).sum(-1)


def l1_factor(before: Float[Tensor, "*batch"], after: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """What restores a sum of magnitudes; 1 where nothing is left."""
    return torch.where(after > 0, before / torch.where(after > 0, after, 1.0), 1.0)
