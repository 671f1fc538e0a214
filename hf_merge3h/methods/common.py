"""What the methods share: checks of their parameters, and one number or one for each expert."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import bad
from ..linalg.blocks import gram_of_block, magnitudes
from ..linalg.dropping import l1_factor
from ..linalg.weighted import shares, weighted_sum
from ..passes import Elementwise, Products, Searched, Total, Weighted
from ..registry import Parts, PerExpert, Range

Share = Annotated[float | tuple[float, ...], Range(0, 1), PerExpert]

#: What becomes of a trimmed tensor's sum of magnitudes.
L1 = Literal["l1", "none"]

#: The laws that methods with random masks do not obey.
DRAWN = {
    "identity": "entries are dropped by lot; it holds at density 1",
    "permutation": "each expert has its own mask; it holds where the masks move with them",
}


def per_expert(value: float | tuple[float, ...], n_experts: int) -> tuple[float, ...]:
    """One value for each expert.

    >>> per_expert(0.5, 3)
    (0.5, 0.5, 0.5)
    """
    values = value if isinstance(value, tuple) else (value,) * n_experts
    if len(values) != n_experts:
        raise bad("parameter", values, f"one number for each of the {n_experts} experts", "or a single number")
    return values


def trimmed_parts(trim: Callable[[Tensor], Tensor], merge: Callable[[Tensor], Tensor], rescale: L1, unit: int) -> Parts:
    """Parts of a method that trims entry by entry; to restore sums of magnitudes takes one more reading.

    Args:
        trim: zeroes entries of a part, in a new tensor.
        merge: what is left; it may use that as scratch.
        rescale: whether each expert's sum is restored first.
        unit: of the parts; the sums are those of `dropping.l1_norms` where it is `row_length` of the tensor.
    """
    if rescale == "none":
        return Elementwise(lambda start, part: merge(trim(part)), unit)

    def after(sums: Tensor) -> Parts:
        factors = l1_factor(*sums).float().reshape(-1, 1, 1)
        return Elementwise(lambda start, part: merge(trim(part).mul_(factors)), unit)

    return Searched(Total(lambda start, part: torch.stack([magnitudes(part), magnitudes(trim(part))])), after, unit)


def linear_factors(weights: Float[Tensor, "task"], scale: float, normalize: bool) -> Float[Tensor, "task"]:
    """scale * w_t, with the w_t divided by their sum if asked."""
    return (shares(weights) if normalize else weights) * scale


def linear_parts(
    parameters: Mapping[str, Any], weights: Tensor, supplied: Mapping[str, Any], shape: tuple[int, ...]
) -> Parts:
    """A weighted sum, whose factors are worked out once for all parts."""
    return weighted_parts(linear_factors(weights, parameters.get("scale", 1.0), parameters.get("normalize", False)))


def weighted_parts(factors: Float[Tensor, "task"]) -> Elementwise:
    """Parts of a sum whose factors are known."""
    return Elementwise(lambda start, part: weighted_sum(part, factors), comes_to=Weighted(factors))


def inner_products() -> Total:
    """A search for the Gram matrix of the vectors, float64."""
    return Total(lambda start, part: gram_of_block(part), Products())


def check_sum(parameters: Mapping[str, Any], weights: Sequence[float]) -> None:
    """Refuse weights that add up to nothing where they are to be divided by their sum."""
    name = "normalize_weights" if "normalize_weights" in parameters else "normalize"
    if parameters.get(name, True) and cancels(weights):
        expected = "numbers whose sum is not zero"
        if name in parameters:
            raise bad("weights", list(weights), expected, instead=(name, False))
        raise bad("weights", list(weights), expected, "the method divides by it")


def cancels(weights: Sequence[float]) -> bool:
    """Whether the sum is zero but for rounding."""
    return abs(math.fsum(weights)) <= 1e-6 * max(map(abs, weights))
