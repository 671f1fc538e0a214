"""Weighted averages of whole weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..errors import bad
from ..linalg.low_rank import LowRank
from ..linalg.weighted import weighted_cat, weighted_sum
from ..registry import method
from .common import check_sum, linear_factors, linear_parts


def preference_grid(n_experts: int, steps: int) -> Iterator[tuple[float, ...]]:
    """All weights on the simplex that are multiples of 1/steps: the points of a rewarded soup's front.

    Args:
        n_experts: how many weights a point has.
        steps: how many steps lead from one corner to another.

    Yields:
        Tuples of weights that add up to one, from all weight on the last expert to all on the first.

    Example:
        >>> list(preference_grid(2, 2))
        [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
        >>> sum(1 for _ in preference_grid(3, 10))
        66
    """
    for argument, value in (("n_experts", n_experts), ("steps", steps)):
        if value < 1:
            raise bad(argument, value, "an integer of at least 1")
    # Stars and bars: n - 1 bars among steps stars cut them into n runs.
    for bars in combinations(range(steps + n_experts - 1), n_experts - 1):
        edges = (-1, *bars, steps + n_experts - 1)
        yield tuple((right - left - 1) / steps for left, right in pairwise(edges))


def _sums_to_one(weights: Sequence[float]) -> bool:
    return math.isclose(math.fsum(weights), 1.0, abs_tol=1e-6)


def _keeps_the_base(parameters: Mapping[str, Any], weights: Sequence[float]) -> bool:
    """Whether sum w_t (W0 + D_t) is W0 + sum w_t D_t."""
    return parameters["normalize"] or _sums_to_one(weights)


def _check_simplex(parameters: Mapping[str, Any], weights: Sequence[float]) -> None:
    if min(weights) < 0 or not _sums_to_one(weights):
        raise bad(
            "weights", list(weights), "preferences: numbers of at least 0 that add up to 1", "or use method='linear'"
        )


def _linear_low_rank(vectors: tuple[LowRank, ...], weights: Float[Tensor, "task"], *, normalize: bool) -> LowRank:
    return weighted_cat(vectors, linear_factors(weights, 1.0, normalize))


@method(
    "linear",
    title="Linear (weight average)",
    paper="arXiv:2203.05482",
    family="linear",
    elementwise=True,
    parts=linear_parts,
    aliases=("weight_average",),
    space="weight",
    delta_form=_keeps_the_base,
    low_rank=_linear_low_rank,
    check=check_sum,
)
def linear(
    vectors: Float[Tensor, "task batch *shape"], weights: Float[Tensor, "task"], *, normalize: bool = True
) -> Float[Tensor, "batch *shape"]:
    """Average the experts' weights.

    W = sum_t w_t W_t / sum_t w_t

    Args:
        vectors: the experts' weights.
        weights: one for each expert.
        normalize: divide by the sum of the weights.

    Returns:
        The averaged weights.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("linear")(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
        tensor([2., 4.])

    Reference:
        Wortsman et al., "Model soups", ICML 2022, arXiv:2203.05482.
    """
    return weighted_sum(vectors, linear_factors(weights, 1.0, normalize))


@method(
    "rewarded_soup",
    title="Rewarded soup",
    paper="arXiv:2306.04488",
    family="linear",
    elementwise=True,
    parts=linear_parts,
    space="weight",
    delta_form=True,
    low_rank=weighted_cat,
    unit_weights=True,
    check=_check_simplex,
)
def rewarded_soup(
    vectors: Float[Tensor, "task batch *shape"], weights: Float[Tensor, "task"]
) -> Float[Tensor, "batch *shape"]:
    """Interpolate the experts' weights by preferences on the simplex.

    W = sum_t w_t W_t with w_t >= 0 and sum_t w_t = 1

    `preference_grid` yields the preferences of a whole front.

    Args:
        vectors: the experts' weights.
        weights: the preferences, 1/T each unless given.

    Returns:
        The interpolated weights.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("rewarded_soup")(torch.tensor([[0.0], [4.0]]), [0.25, 0.75])
        tensor([3.])

    Reference:
        Ramé et al., "Rewarded soups", NeurIPS 2023, arXiv:2306.04488.
    """
    return weighted_sum(vectors, weights)
