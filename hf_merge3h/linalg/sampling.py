"""Counting a share of a matrix's entries on a sample of its rows."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .low_rank import LowRank
from .precision import double
from .random import mask_key, uniform

ALL_ROWS = 256  # matrices of no more rows are counted whole; larger ones start with so many
STANDARD_ERROR = 0.005


def row_order(m: int) -> Int[Tensor, "m"]:
    """The order in which the rows of a matrix are drawn: the same for all matrices of m rows, on every device."""
    return uniform(torch.tensor(mask_key(0, "rows", str(m))), m).argsort(stable=True)


def small_share(delta: Tensor | LowRank, bound: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """The share of entries at or under a bound in magnitude, float64.

    Rows are drawn without replacement, 256 at first and then twice as many each time, until the standard error of a
    matrix's share, sqrt((1 - R/m) var(shares of rows) / R), is under 0.5 %. Entries of one row are alike, so rows, not
    entries, are what is drawn and what the variance is of. Each matrix stops by itself: its share does not depend on
    the batch, and a matrix and its factors give the same rows. Of factors, only these rows are multiplied out.

    Args:
        delta: matrices [batch, m, n], or their factors.
        bound: one for each matrix.

    Example:
        >>> small_share(torch.tensor([[[0.0, 1.0], [3.0, 4.0]]]), torch.tensor([1.0]))
        tensor([0.5000], dtype=torch.float64)
    """
    batch, m, n = delta.shape
    order, bound = row_order(m).to(delta.device), bound.to(device=delta.device, dtype=delta.dtype)
    share = double(torch.zeros(batch, device=delta.device))
    total, squares = torch.zeros_like(share), torch.zeros_like(share)
    pending = torch.arange(batch, device=share.device)
    done, stop = 0, ALL_ROWS
    while len(pending) and m and n:
        stop = min(stop, m)
        whole, here = len(pending) == batch, pending.to(delta.device)
        part = _rows(delta if whole else delta[here], order[done:stop])
        within = part.abs_().le_(bound[here, None, None])  # 0 and 1, in place: exact sums up to 2^24
        shares = double(within.sum(-1)) / n
        total[pending] += shares.sum(-1)
        squares[pending] += shares.square().sum(-1)
        done, stop = stop, 2 * stop
        mean = total[pending] / done
        share[pending] = mean
        if done == m:
            break
        variance = (squares[pending] - done * mean.square()).clamp_min(0) / (done - 1)
        pending = pending[(variance * (1 - done / m) / done).sqrt() >= STANDARD_ERROR]
    return share


def _rows(delta: Tensor | LowRank, index: Tensor) -> Tensor:
    return delta.index_select(-2, index) if isinstance(delta, Tensor) else delta.rows(index)
