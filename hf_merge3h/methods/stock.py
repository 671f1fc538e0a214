"""Model Stock: how far to walk from the base to the mean, from the angle between the experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..linalg.blocks import gram as whole_gram
from ..linalg.low_rank import LowRank
from ..linalg.sparsify import spread
from ..linalg.sphere import gram, low_rank_gram, low_rank_row_gram, mean_cosine
from ..linalg.weighted import weighted_sum
from ..passes import Elementwise, Searched, Weighted
from ..registry import Parts, Range, method
from .common import inner_products

_GUARD = 1e-6  # under this the experts cancel each other out: their mean is the base


def _interpolation(products: Float64[Tensor, "task task *coarse"], floor: float) -> Float64[Tensor, "*coarse"]:
    """t = T c / (1 + (T - 1) c)."""
    n_tasks = len(products)
    cosine = mean_cosine(products, floor)
    divisor = 1 + (n_tasks - 1) * cosine
    cancelled = divisor.abs() < _GUARD
    return torch.where(cancelled, 0.0, n_tasks * cosine / torch.where(cancelled, 1.0, divisor))


def _model_stock_low_rank(
    vectors: tuple[LowRank, ...], weights: Float[Tensor, "task"], *, filter_wise: bool, cosine_floor: float
) -> LowRank:
    ratio = _interpolation(low_rank_row_gram(vectors) if filter_wise else low_rank_gram(vectors), cosine_floor)
    mean = LowRank.cat([vector * (1.0 / len(vectors)) for vector in vectors])
    ratio = ratio.to(mean.left)
    return LowRank(mean.left * (ratio.unsqueeze(-1) if filter_wise else ratio[..., None, None]), mean.right)


def _shortened_mean(
    vectors: Float[Tensor, "task batch *shape"], ratio: Float[Tensor, "batch *coarse"]
) -> Float[Tensor, "batch *shape"]:
    """t mean_t D_t."""
    return weighted_sum(vectors, vectors.new_full((len(vectors),), 1.0 / len(vectors))) * ratio


def _parts(
    parameters: Mapping[str, Any], weights: Tensor, supplied: Mapping[str, Any], shape: tuple[int, ...]
) -> Parts | None:
    if parameters["filter_wise"] and len(shape) > 1:
        return None

    def after(products: Tensor) -> Parts:
        ratio = _interpolation(products, parameters["cosine_floor"]).float()
        known = Weighted(torch.full((len(products),), 1.0 / len(products)), float(ratio))
        return Elementwise(lambda start, part: _shortened_mean(part, ratio.reshape(1, 1)), comes_to=known)

    return Searched(inner_products(), after)


@method(
    "model_stock",
    title="Model Stock",
    paper="arXiv:2403.19522",
    family="linear",
    low_rank=_model_stock_low_rank,
    parts=_parts,
    experts=(2, None),
    weighted=False,
)
def model_stock(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    filter_wise: bool = False,
    cosine_floor: Annotated[float, Range(0)] = 0.0,
) -> Float[Tensor, "batch *shape"]:
    """Interpolate between the base and the mean of the experts by the angle between them.

    D = t mean_t D_t,  t = T c / (1 + (T - 1) c),  c = mean over the pairs of cos(D_s, D_t)

    Args:
        vectors: task vectors.
        weights: not used: the formula names none.
        filter_wise: take one angle for each row (output) of a tensor instead of one for the tensor.
        cosine_floor: the least that |D_s| |D_t| counts in cos(D_s, D_t).

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("model_stock")(torch.tensor([[2.0, 0.0], [2.0, 0.0]]))
        tensor([2., 0.])
        >>> get_method("model_stock")(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
        tensor([0., 0.])

    Reference:
        Jang et al., "Model Stock: all we need is just a few fine-tuned models", ECCV 2024, arXiv:2403.19522.

    Note:
        The paper's angle is between experts that all have the same one; with several, c is the mean cosine. A zero
        task vector has the cosine 0 with every other. Where |1 + (T - 1) c| < 1e-6 the base is kept.
        `cosine_floor` is 0 here and 1e-6 in mergekit, where short task vectors then count as less alike.
    """
    if filter_wise and vectors.ndim > 3:
        ratio = _interpolation(gram(vectors, tuple(range(2, vectors.ndim - 1))), cosine_floor).to(vectors)
        return _shortened_mean(vectors, ratio)
    ratio = _interpolation(whole_gram(vectors), cosine_floor).to(vectors)
    return _shortened_mean(vectors, spread(ratio, vectors[0]))
