"""Which entries of a task vector to keep: by magnitude, or by a window of magnitudes (by lot: `dropping`).

Thresholds are exact order statistics, one for each tensor of the batch. Entries of equal magnitude are never told
apart: if the k-th largest magnitude occurs several times, all its entries are kept, so that nothing depends on the
order in which a device sorts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

_BINS = 1 << 16  # of a histogram over one half of a float32's bit pattern
_SELECT_BY_HISTOGRAM = 1 << 19  # entries from which on two histograms are faster than a selection
_CHUNK = 1 << 17  # entries of a histogram that the CPU takes at a time, to stay in its cache


def flat(stack: Shaped[Tensor, "batch *shape"]) -> Shaped[Tensor, "batch n"]:
    """Each tensor of the batch as one row."""
    return stack.reshape(len(stack), stack[0].numel())


def spread(values: Tensor, like: Float[Tensor, "batch *shape"]) -> Tensor:
    """One value for each tensor of the batch, in a shape that broadcasts against the batch."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def count_of(share: float, n: int) -> int:
    """How many of n entries a share is: rounded down, as the papers' implementations do, but never none.

    >>> count_of(0.2, 10), count_of(0.2, 14), count_of(0.2, 1)
    (2, 2, 1)
    """
    return min(n, max(1, int(share * n)))


def row_length(shape: Sequence[int]) -> int:
    """Entries of what one index of the first dimension holds; all of a vector.

    >>> row_length((4, 3, 2)), row_length((5,))
    (6, 5)
    """
    return max(1, math.prod(shape[1:] if len(shape) > 1 else shape))


def magnitude_bits(vectors: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The bit patterns of float32 magnitudes, which are ordered as the magnitudes are."""
    return vectors.contiguous().view(torch.int32) & 0x7FFFFFFF


def magnitude_histogram(
    vectors: Float[Tensor, "batch n"], upper: Int[Tensor, "batch"] | None = None
) -> Int[Tensor, "batch bins"]:
    """How often each upper half of a magnitude's bit pattern occurs; given one, the lower halves that go with it."""
    rows, n = vectors.shape
    offsets = torch.arange(0, rows * _BINS, _BINS, device=vectors.device).unsqueeze(-1)
    counts = torch.zeros(rows * _BINS, dtype=torch.int64, device=vectors.device)
    width = max(1, max(_CHUNK, rows * _BINS) // max(rows, 1)) if vectors.device.type == "cpu" else max(n, 1)
    for part in vectors.split(width, dim=1):
        bits = magnitude_bits(part)
        index = (bits >> 16) + offsets
        if upper is not None:
            inside = index == upper.unsqueeze(-1) + offsets
            index = ((bits & 0xFFFF) + offsets)[inside]
        counts += torch.bincount(index.reshape(-1), minlength=rows * _BINS)
    return counts.reshape(rows, _BINS)


def bin_of_rank(
    counts: Int[Tensor, "batch bins"], rank: Int[Tensor, "batch"]
) -> tuple[Int[Tensor, "batch"], Int[Tensor, "batch"]]:
    """The bin in which the `rank`-th largest entry lies, and its rank among the entries of that bin."""
    above = counts.flip(-1).cumsum(-1)
    place = (above < rank.unsqueeze(-1)).sum(-1)
    before = torch.where(place > 0, above.gather(-1, (place - 1).clamp_min(0).unsqueeze(-1)).squeeze(-1), 0)
    return counts.shape[-1] - 1 - place, rank - before


def from_bits(upper: Int[Tensor, "batch"], lower: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """The float32 magnitude that two halves of a bit pattern make."""
    return ((upper << 16) + lower).to(torch.int32).view(torch.float32)


def kth_largest(vectors: Float[Tensor, "batch n"], k: int | Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """The k-th largest magnitude of each row, exact; k may differ by row.

    A float32 is ordered as its bit pattern is, so a histogram over the patterns' upper halves finds the bin of the
    k-th largest, and one over the lower halves within that bin finds it: two readings and no sort.

    >>> kth_largest(torch.tensor([[3.0, -5.0, 1.0]]), 2)
    tensor([3.])
    """
    rows, n = vectors.shape
    if n >= _SELECT_BY_HISTOGRAM and vectors.dtype == torch.float32:
        rank = torch.full((rows,), k, device=vectors.device) if isinstance(k, int) else k
        upper, rank = bin_of_rank(magnitude_histogram(vectors), rank)
        lower, _ = bin_of_rank(magnitude_histogram(vectors, upper), rank)
        return from_bits(upper, lower)
    if isinstance(k, int):
        return vectors.abs().kthvalue(n - k + 1, dim=-1).values
    return vectors.abs().sort(dim=-1, descending=True).values.gather(-1, (k - 1).unsqueeze(-1)).squeeze(-1)


def at_least(stack: Float[Tensor, "batch *shape"], threshold: Tensor) -> Float[Tensor, "batch *shape"]:
    """The entries whose magnitude reaches the threshold (one for all, or one for each tensor); zeros elsewhere.

    >>> at_least(torch.tensor([[1.0, -2.0, 3.0]]), torch.tensor([2.0]))
    tensor([[ 0., -2.,  3.]])
    """
    return greater(stack, torch.nextafter(threshold, torch.zeros_like(threshold)))


def greater(stack: Float[Tensor, "batch *shape"], bound: Tensor) -> Float[Tensor, "batch *shape"]:
    """The entries whose magnitude is greater than the bound (one for all, or one for each tensor); zeros elsewhere."""
    if stack.device.type != "cpu":
        return torch.where(stack.abs() > spread(bound, stack), stack, 0.0)
    if bound.numel() == 1:  # on the CPU `where` mispredicts a branch at every second entry
        return torch.hardshrink(stack, float(bound))
    return stack.abs().gt_(spread(bound, stack)).mul_(stack).add_(0.0)  # a zero of either sign becomes +0


def below(threshold: float) -> float:
    """The float32 next to a threshold on the side of 0: what is greater reaches the threshold.

    >>> below(1.0)
    0.9999999403953552
    """
    return float(np.nextafter(np.float32(threshold), np.float32(0)))


def greater_each(vectors: Float[Tensor, "task *shape"], bounds: Sequence[float | None]) -> Float[Tensor, "task *shape"]:
    """`greater` with a bound for each task, on the CPU, where a stack is made without a copy; None keeps all.

    >>> greater_each(torch.tensor([[1.0, -2.0], [1.0, -2.0]]), [1.5, None])
    tensor([[ 0., -2.],
            [ 1., -2.]])
    """
    result = torch.empty_like(vectors)
    for row, kept, bound in zip(vectors.unbind(), result.unbind(), bounds, strict=True):
        if bound is None:
            kept.copy_(row)
        else:
            torch.hardshrink(row, bound, out=kept)
    return result


def between(stack: Float[Tensor, "batch *shape"], least: Tensor, most: Tensor) -> Float[Tensor, "batch *shape"]:
    """The entries whose magnitude is at least `least` and at most `most`; zeros elsewhere.

    >>> between(torch.tensor([[1.0, -2.0, 3.0]]), torch.tensor([2.0]), torch.tensor([2.5]))
    tensor([[ 0., -2.,  0.]])
    """
    kept = at_least(stack, least)
    return kept - greater(kept, most)


def keep_largest(stack: Float[Tensor, "batch *shape"], density: float) -> Float[Tensor, "batch *shape"]:
    """Keep the top `density` share by magnitude.

    >>> keep_largest(torch.tensor([[1.0, -4.0, 2.0, 3.0]]), 0.5)
    tensor([[ 0., -4.,  0.,  3.]])
    """
    rows = flat(stack)
    n = rows.shape[-1]
    if density >= 1 or n == 0:
        return stack
    return at_least(stack, kth_largest(rows, count_of(density, n)))


def window(density: float, gamma: float, n: int) -> tuple[int, int]:
    """How many of n entries are dropped as outliers, and how many are kept after them.

    >>> window(0.5, 0.2, 10), window(0.9, 0.3, 10)
    ((2, 5), (1, 9))
    """
    kept = count_of(density, n)
    return min(int(gamma * n), n - kept), kept


def keep_middle(stack: Float[Tensor, "batch *shape"], density: float, gamma: float) -> Float[Tensor, "batch *shape"]:
    """Drop the top `gamma` share, then keep the largest, so that a `density` share remains.

    Where both do not fit, fewer outliers are dropped; so density 1 drops nothing.

    >>> keep_middle(torch.tensor([[1.0, -4.0, 2.0, 3.0]]), 0.5, 0.25)
    tensor([[0., 0., 2., 3.]])
    """
    rows = flat(stack)
    n = rows.shape[-1]
    if density >= 1 or n == 0:
        return stack
    outliers, kept = window(density, gamma, n)
    least = kth_largest(rows, outliers + kept)
    return at_least(stack, least) if outliers == 0 else between(stack, least, kth_largest(rows, outliers + 1))
