"""Isotropic merging: flatten the spectrum, so that no direction drowns another."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..linalg.low_rank import LowRank, norms
from ..linalg.polar import polar
from ..linalg.precision import EPS, double
from ..linalg.svd import Triplets, factored_triplets, first_triplets, leading_triplets
from ..linalg.weighted import weighted_cat, weighted_sum
from ..registry import Range, method
from .arithmetic import Scale

_FLATTENED = "the spectrum is flattened: only a delta whose singular values are all equal comes back"


def triplets_of(delta: Tensor | LowRank, k: int, floor: Float[Tensor, "batch"] | None) -> Triplets:
    """The first k singular triplets, float64, of a matrix or of factors."""
    if isinstance(delta, Tensor):
        return leading_triplets(delta, k, floor=floor)
    left, right = double(delta.left), double(delta.right)
    found = factored_triplets(left.mT @ left, right @ right.mT, *delta.shape[-2:], floor=floor)
    return Triplets(left @ found.left[..., :k], found.values[..., :k], right.mT @ found.right[..., :k])


def flattened(
    left: Float[Tensor, "batch m k"], values: Float[Tensor, "batch k"], right: Float[Tensor, "batch n k"], scale: float,
    like: Tensor,
) -> LowRank:  # fmt: skip
    """left right^T times the mean of the values that are not zero."""
    kept = (values > 0).sum(-1, keepdim=True)
    mean = values.sum(-1, keepdim=True) / kept.clamp_min(1)
    sizes = torch.where(values > 0, mean, 0.0) * scale
    return LowRank((left * sizes.unsqueeze(-2)).to(like), right.mT.to(like))


def _iso_c_factors(deltas: tuple[LowRank, ...], weights: Float[Tensor, "task"], **options: Any) -> LowRank:
    """`iso_c` of factors."""
    return _iso_c(weighted_cat(deltas, weights), deltas[0].left, **options)


def _iso_c(
    total: Tensor | LowRank, like: Tensor, *, scale: float, denoise: bool, noise: Float[Tensor, "batch"] | None
) -> LowRank:
    found = triplets_of(total, min(total.shape[-2:]), noise if denoise else None)
    return flattened(*found, scale, like)


@method(
    "iso_c",
    title="Iso-C",
    paper="arXiv:2502.04959",
    family="spectral",
    matrix_only=True,
    low_rank=_iso_c_factors,
    exempt={"identity": _FLATTENED},
)
def iso_c(
    deltas: Float[Tensor, "task batch m n"],
    weights: Float[Tensor, "task"],
    *,
    scale: Scale = 1.0,
    denoise: bool = False,
    noise: Float[Tensor, "batch"] | None = None,
) -> LowRank:
    """Add the task vectors and give all singular values of the sum their mean.

    D = scale * mean(S) U V^T,  sum_t w_t D_t = U S V^T cut to its numerical rank

    Args:
        deltas: task vectors, matrices.
        weights: one for each expert.
        scale: factor of the result.
        denoise: drop singular values that the storage of the weights alone would make.
        noise: the level of that storage noise.

    Returns:
        The merged task vector, as factors.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("iso_c")(torch.diag(torch.tensor([3.0, 1.0])).unsqueeze(0)).dense()
        tensor([[2., 0.],
                [0., 2.]])

    Reference:
        Marczak et al., "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces",
        ICML 2025, arXiv:2502.04959.

    Note:
        The paper takes the mean over min(m, n) singular values. On a sum that lacks rank, as that of LoRA's does, this
        gives arbitrary vectors of the null space as much weight as the rest; ours is over the numerical rank.
    """
    return _iso_c(weighted_sum(deltas, weights), deltas, scale=scale, denoise=denoise, noise=noise)


def _iso_cts_factors(deltas: tuple[LowRank, ...], weights: Float[Tensor, "task"], **options: Any) -> LowRank:
    """`iso_cts` of factors."""
    terms = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
    return _iso_cts(LowRank.cat(terms), terms, deltas[0].left, **options)


def _iso_cts(
    total: Tensor | LowRank,
    terms: list[Tensor] | list[LowRank],
    like: Tensor,
    *,
    scale: float,
    common: float,
    denoise: bool,
    noise: Float[Tensor, "batch"] | None,
) -> LowRank:
    m, n = total.shape[-2:]
    noise = noise if denoise else None
    found = triplets_of(total, min(m, n), noise)
    rank = (found.values > 0).sum(-1)
    # 1e-9: what a share like 0.8 lacks in binary must not cost a direction.
    shared = (rank * common + 1e-9).floor().long()
    own = (rank - shared) // len(terms)
    parts = [first_triplets(found, shared)]
    for term in terms:
        # What is left of an expert inside the common space is rounding, not rank: the floor is the expert's own.
        floor = norms(term) * (max(m, n) * EPS)
        if noise is not None:
            floor = torch.maximum(floor, noise.to(floor))
        parts.append(first_triplets(triplets_of(_outside(term, parts[0].left), min(m, n), floor), own))
    left, right = (polar(torch.cat([part[side] for part in parts], -1)) for side in (0, 2))
    return flattened(left, torch.cat([part.values for part in parts], -1), right, scale, like)


def _outside(term: Tensor | LowRank, basis: Float[Tensor, "batch m k"]) -> Tensor | LowRank:
    """D - U U^T D, float64."""
    if isinstance(term, LowRank):
        left = double(term.left)
        return LowRank(left - basis @ (basis.mT @ left), double(term.right))
    dense = double(term)
    return dense - basis @ (basis.mT @ dense)


@method(
    "iso_cts",
    title="Iso-CTS",
    paper="arXiv:2502.04959",
    family="spectral",
    matrix_only=True,
    low_rank=_iso_cts_factors,
    exempt={"identity": _FLATTENED},
)
def iso_cts(
    deltas: Float[Tensor, "task batch m n"],
    weights: Float[Tensor, "task"],
    *,
    scale: Scale = 1.0,
    common: Annotated[float, Range(0, 1)] = 0.8,
    denoise: bool = False,
    noise: Float[Tensor, "batch"] | None = None,
) -> LowRank:
    """Join the sum's leading directions and each expert's own outside of them, and give all one singular value.

    D = scale * mean(S) polar([U_c U_1 .. U_T]) polar([V_c V_1 .. V_T])^T, where U_c, V_c are the top floor(common r)
    triplets of sum_t w_t D_t of numerical rank r, and U_t, V_t the top floor((r - floor(common r)) / T) of
    w_t D_t - U_c U_c^T w_t D_t; the mean is over the singular values of all of them

    Args:
        deltas: task vectors, matrices.
        weights: one for each expert.
        scale: factor of the result.
        common: share of the sum's rank that is common to all experts.
        denoise: drop singular values that the storage of the weights alone would make.
        noise: the level of that storage noise.

    Returns:
        The merged task vector, as factors.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("iso_cts")(torch.diag(torch.tensor([3.0, 1.0])).unsqueeze(0), common=0.5).dense()
        tensor([[2., 0.],
                [0., 2.]])

    Reference:
        Marczak et al., "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces",
        ICML 2025, arXiv:2502.04959.

    Note:
        r is the numerical rank of the sum, where the paper has min(m, n). What an expert has outside of the common
        space counts only above the rounding of that expert, max(m, n) * eps(float32) * |w_t D_t|.
    """
    terms = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
    total = weighted_sum(deltas, weights)
    return _iso_cts(total, terms, deltas, scale=scale, common=common, denoise=denoise, noise=noise)
