"""Task arithmetic: sums of task vectors."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from ..linalg.low_rank import LowRank
from ..linalg.weighted import weighted_cat, weighted_sum
from ..registry import Range, method
from .common import check_sum, linear_factors, linear_parts

Scale = Annotated[float, Range(low_open=True, high_open=True)]


def merge_linearly(
    vectors: Float[Tensor, "task batch *shape"], weights: Float[Tensor, "task"], *, scale: float, normalize: bool
) -> Float[Tensor, "batch *shape"]:
    """scale * sum_t w_t D_t, the w_t divided by their sum if asked."""
    return weighted_sum(vectors, linear_factors(weights, scale, normalize))


def _task_arithmetic_low_rank(
    vectors: tuple[LowRank, ...], weights: Float[Tensor, "task"], *, scale: float, normalize: bool
) -> LowRank:
    return weighted_cat(vectors, linear_factors(weights, scale, normalize))


@method(
    "task_arithmetic",
    title="Task arithmetic",
    paper="arXiv:2212.04089",
    family="linear",
    elementwise=True,
    parts=linear_parts,
    low_rank=_task_arithmetic_low_rank,
    check=check_sum,
)
def task_arithmetic(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    scale: Scale = 1.0,
    normalize: bool = False,
) -> Float[Tensor, "batch *shape"]:
    """Add the weighted task vectors.

    D = scale * sum_t w_t D_t

    Args:
        vectors: task vectors.
        weights: one for each expert; a negative one unlearns.
        scale: factor of the sum.
        normalize: divide by the sum of the weights.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("task_arithmetic")(torch.tensor([[1.0, 2.0], [3.0, -4.0]]), [1, 0.5])
        tensor([2.5000, 0.0000])

    Reference:
        Ilharco et al., "Editing models with task arithmetic", ICLR 2023, arXiv:2212.04089.
    """
    return merge_linearly(vectors, weights, scale=scale, normalize=normalize)
