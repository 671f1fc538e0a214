"""Robust scales, and the Huber weights that they give to outliers.

Huber's weight of a residual z is min(1, kappa / z) (Huber, "Robust estimation of a location parameter", 1964,
https://doi.org/10.1214/aoms/1177703732); 1.4826 median |x| estimates the standard deviation of a normal distribution
and does not see up to half of the entries.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .low_rank import norms
from .precision import EPS
from .sparsify import flat, kth_largest, spread

#: What is done to outliers: they count less, or more, or as everything else.
Outliers = Literal["damp", "boost", "none"]

_NORMAL = 1.4826
_ROUNDING = 16 * EPS  # a spread below this, relative to the median, is rounding


def median(values: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """The median over the last axis, the mean of the middle two where their number is even."""
    n = values.shape[-1]
    ordered = values.sort(-1).values
    return (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2


def outlier_weights(z: Tensor, kappa: float, outliers: Outliers) -> Tensor:
    """Huber's min(1, kappa / z), or its inverse, at most kappa, to boost.

    >>> outlier_weights(torch.tensor([1.0, 6.0]), 3.0, "damp"), outlier_weights(torch.tensor([1.0, 6.0]), 3.0, "boost")
    (tensor([1.0000, 0.5000]), tensor([1., 2.]))
    """
    excess = (z / kappa).clamp_min(1)
    return excess.clamp_max(max(kappa, 1.0)) if outliers == "boost" else 1 / excess


def excess_weights(sizes: Float[Tensor, "*batch n"], kappa: float, outliers: Outliers) -> Float[Tensor, "*batch n"]:
    """Weights of sizes by how far they lie above their median in robust standard deviations (1 where those are 0)."""
    middle = median(sizes).unsqueeze(-1)
    deviation = _NORMAL * median((sizes - middle).abs()).unsqueeze(-1)
    flat_spread = deviation <= _ROUNDING * middle
    z = (sizes - middle).clamp_min(0) / torch.where(flat_spread, 1.0, deviation)
    return outlier_weights(torch.where(flat_spread, 0.0, z), kappa, outliers)


def reweighted_entries(
    matrix: Float[Tensor, "batch m n"], kappa: float, outliers: Outliers, epsilon: float = 0.0
) -> Float[Tensor, "batch m n"]:
    """Entries times their weights, z = |x| / (1.4826 median of the |x| above epsilon times their root mean square).

    Where a change is sparse, most entries are next to nothing, and against their median the change itself would be all
    outliers; so what counts as zero is no part of the scale.

    Damping is clipping: x min(1, c / |x|) is x, but no further from 0 than c = 1.4826 kappa median.
    """
    rows = flat(matrix)
    floor = epsilon * norms(matrix) / math.sqrt(max(1, rows.shape[-1]))
    filled = (rows.abs() > floor.to(rows).unsqueeze(-1)).sum(-1)
    middle = [kth_largest(rows, rank.clamp_min(1)) for rank in ((filled + 1) // 2, filled // 2 + 1)]
    scale = _NORMAL * (middle[0] + middle[1]) / 2
    if outliers == "damp":
        bound = spread(kappa * scale, matrix)
        return torch.minimum(torch.maximum(matrix, -bound), bound)
    z = matrix.abs() / spread(torch.where(scale > 0, scale, 1.0), matrix)
    return matrix * outlier_weights(z, kappa, outliers)
