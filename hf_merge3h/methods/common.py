"""What the methods share: checks of their parameters, and one number or one for each expert."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

from ..errors import bad
from ..linalg.weighted import shares, weighted_sum
from ..passes import Elementwise
from ..registry import Parts, PerExpert, Range

Share = Annotated[float | tuple[float, ...], Range(0, 1), PerExpert]

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


def linear_factors(weights: Float[Tensor, "task"], scale: float, normalize: bool) -> Float[Tensor, "task"]:
    """scale * w_t, with the w_t divided by their sum if asked."""
    return (shares(weights) if normalize else weights) * scale


def linear_parts(
    parameters: Mapping[str, Any], weights: Tensor, supplied: Mapping[str, Any], shape: tuple[int, ...]
) -> Parts:
    """A weighted sum, whose factors are worked out once for all parts."""
    factors = linear_factors(weights, parameters.get("scale", 1.0), parameters.get("normalize", False))
    return Elementwise(lambda start, part: weighted_sum(part, factors))


def check_sum(parameters: Mapping[str, Any], weights: Sequence[float]) -> None:
    """Refuse weights that add up to nothing where they are to be divided by their sum."""
    name = "normalize_weights" if "normalize_weights" in parameters else "normalize"
    if parameters.get(name, True) and cancels(weights):
        remedy = f"or pass {name}=False" if name in parameters else "the method divides by it"
        raise bad("weights", list(weights), "numbers whose sum is not zero", remedy)


def cancels(weights: Sequence[float]) -> bool:
    """Whether the sum is zero but for rounding."""
    return abs(math.fsum(weights)) <= 1e-6 * max(map(abs, weights))
