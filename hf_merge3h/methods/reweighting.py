"""The two adaptive parts of R-TSVM: outlier-aware weights, and ranks by sparsity.

Both are a reconstruction from the abstract of arXiv:2502.06876, which does not give the formulas.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..linalg.low_rank import LowRank, norms
from ..linalg.precision import double
from ..linalg.robust import Outliers, excess_weights, reweighted_entries
from ..linalg.sampling import small_share

Granularity = Literal["auto", "entry", "channel", "layer"]
RankRule = Literal["task", "share", "noise"]

_LEAST_SHARE = 1e-9  # a task that is all sparse is served last, not never


class Statistics(NamedTuple):
    """What R-TSVM knows of the whole model.

    Attributes:
        rms: of each expert, root-mean-square entry of its delta over the matrices that it changes.
        layers: by tensor name, the factor of each expert's delta under granularity "layer".
    """

    rms: tuple[float, ...]
    layers: Mapping[str, tuple[float, ...]]


def module_name(name: str) -> str:
    """A tensor's name without the number of its layer.

    >>> module_name("model.layers.3.mlp.experts.5.w1.weight")
    'model.layers.*.mlp.experts.5.w1.weight'
    """
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name, count=1)


class DeltaScales:
    """The pass over the model in which Frobenius norms are collected; no matrix is formed for it."""

    passes = 1

    def __init__(self, n_experts: int, kappa: float, outliers: Outliers, preserve_norm: bool) -> None:
        self._kappa, self._outliers, self._preserve = kappa, outliers, preserve_norm
        self._squares: list[dict[str, tuple[float, int]]] = [{} for _ in range(n_experts)]

    def observe(self, number: int, names: tuple[str, ...], deltas: Any, matrix: bool) -> None:
        """Note the norms of one group of matrices; zero deltas are not counted as changed."""
        if not matrix:
            return
        for found, delta in zip(self._squares, deltas, strict=True):
            n = delta.shape[-2] * delta.shape[-1]
            for name, norm in zip(names, norms(delta).tolist(), strict=True):
                if norm > 0:
                    found[name] = norm**2, n

    def result(self) -> Statistics:
        """Root mean squares, and the layers' factors."""
        rms = tuple(math.sqrt(_ratio(*map(sum, zip(*found.values())))) if found else 0.0 for found in self._squares)
        factors = [self._layer_factors(found) for found in self._squares]
        names = dict.fromkeys(name for found in self._squares for name in found)
        return Statistics(rms, {name: tuple(each.get(name, 1.0) for each in factors) for name in names})

    def _layer_factors(self, found: Mapping[str, tuple[float, int]]) -> dict[str, float]:
        """Weights by how far a layer's rms lies above that of the same module in other layers, norm of all kept."""
        if self._outliers == "none" or math.isinf(self._kappa):
            return dict.fromkeys(found, 1.0)
        families: dict[str, list[str]] = {}
        for name in found:
            families.setdefault(module_name(name), []).append(name)
        factors: dict[str, float] = {}
        for names in families.values():
            sizes = torch.tensor([math.sqrt(_ratio(*found[name])) for name in names], dtype=torch.float64)
            factors.update(zip(names, excess_weights(sizes, self._kappa, self._outliers).tolist()))
        if self._preserve and found:
            before = sum(square for square, _ in found.values())
            after = sum(square * factors[name] ** 2 for name, (square, _) in found.items())
            factors = {name: factor * math.sqrt(_ratio(before, after)) for name, factor in factors.items()}
        return factors


def _ratio(numerator: float, denominator: float | int) -> float:
    return numerator / denominator if denominator else 0.0


def reweighted(
    delta: Tensor | LowRank, granularity: Granularity, kappa: float, outliers: Outliers, epsilon: float
) -> Tensor | LowRank:
    """One expert's delta with its outlying entries, or rows and columns, weighted."""
    if granularity == "entry":
        assert isinstance(delta, Tensor)
        return reweighted_entries(delta, kappa, outliers, epsilon)
    row_sizes, column_sizes = channel_norms(delta)
    rows = excess_weights(row_sizes, kappa, outliers).unsqueeze(-1)
    columns = excess_weights(column_sizes, kappa, outliers).unsqueeze(-2)
    if isinstance(delta, LowRank):
        return LowRank(delta.left * rows.to(delta.left), delta.right * columns.to(delta.right))
    return delta * rows.to(delta) * columns.to(delta)


def channel_norms(delta: Tensor | LowRank) -> tuple[Float[Tensor, "batch m"], Float[Tensor, "batch n"]]:
    """Norms of the rows and columns, float64; of B A they are those of B L and L^T A, with L L^T the Gram matrices."""
    if isinstance(delta, LowRank):
        left, right = double(delta.left), double(delta.right)
        across = ((left @ (right @ right.mT)) * left).sum(-1)
        down = (((left.mT @ left) @ right) * right).sum(-2)
        return across.clamp_min(0).sqrt(), down.clamp_min(0).sqrt()
    squares = double(delta).square_()
    return squares.sum(-1).sqrt(), squares.sum(-2).sqrt()


def sparsity(
    deltas: Tensor | tuple[LowRank, ...], epsilon: float, rms: Float[Tensor, "task batch"]
) -> Float[Tensor, "task batch"]:
    """s_t: the share of entries at or under epsilon times the rms of the expert's whole delta."""
    return torch.stack([small_share(delta, epsilon * scale) for delta, scale in zip(deltas, rms)])


def ranks_by_task(
    ranks: Int[Tensor, "task batch"], sparse: Float[Tensor, "task batch"], gamma: float
) -> Int[Tensor, "task batch"]:
    """max(1, floor(k_t (1 - s_t)^gamma)), 0 where k_t is 0."""
    kept = (ranks * (1 - sparse) ** gamma).floor().to(ranks)
    return torch.where(ranks > 0, kept.clamp_min(1), 0)


def ranks_above_noise(
    values: Float[Tensor, "batch k"], shape: tuple[int, int], strength: float
) -> Int[Tensor, "batch"]:
    """How many singular values stand out of noise: those above strength omega(b) times the median of all min(m, n).

    omega(b) = 0.56 b^3 - 0.95 b^2 + 1.82 b + 1.43,  b = min(m, n) / max(m, n),

    is the threshold that loses least where a low-rank matrix lies under noise of unknown level, which the median tells
    (Gavish and Donoho, "The optimal hard threshold for singular values is 4/sqrt(3)", arXiv:1305.5870, equation 5). A
    matrix of factors whose rank is under half of min(m, n) has a median of 0, so none of its values is noise.

    Args:
        values: singular values, falling; those that are left out are 0.
        shape: m and n.
        strength: of the threshold; 0 for none.

    >>> ranks_above_noise(torch.tensor([[9.0, 5.0, 1.0, 0.9, 0.8]]), (5, 5), 1.0)
    tensor([2])
    """
    small, large = sorted(shape)
    beta = small / large
    omega = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
    padded = torch.nn.functional.pad(values, (0, small - values.shape[-1]))
    middle = (padded[:, (small - 1) // 2] + padded[:, small // 2]) / 2
    return (values > strength * omega * middle.unsqueeze(-1)).sum(-1)


def ranks_by_share(
    ranks: Int[Tensor, "task batch"],
    sparse: Float[Tensor, "task batch"],
    gamma: float,
    limits: Int[Tensor, "task batch"],
) -> Int[Tensor, "task batch"]:
    """Divide sum_t k_t in proportion to k_t (1 - s_t)^gamma by largest remainders, none above its limit.

    What a task at its limit cannot take goes to the others in the same proportion.
    """
    total = ranks.sum(0)
    demand = ranks * ((1 - sparse) ** gamma).clamp_min(_LEAST_SHARE)
    full = torch.zeros_like(ranks, dtype=torch.bool)
    quota = torch.zeros_like(demand)
    for _ in range(len(ranks)):
        open_demand = torch.where(full, 0.0, demand)
        rest = total - torch.where(full, limits, 0).sum(0)
        quota = torch.where(full, limits, rest * open_demand / open_demand.sum(0).clamp_min(1e-300))
        full = full | (quota >= limits)
    quota = torch.minimum(quota, limits.to(quota))
    kept = quota.floor()
    remainder = torch.where(kept < limits, quota - kept, -1.0)
    place = remainder.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
    more = (place < total - kept.sum(0)) & (remainder >= 0) & (ranks > 0)
    return (kept + more).to(ranks)
