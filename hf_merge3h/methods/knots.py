"""KnOTS: bring all experts into one basis by a joint SVD, then merge there by TIES or DARE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..linalg.dropping import Rescale, drop_by_lot
from ..linalg.low_rank import LowRank
from ..linalg.precision import EPS, double
from ..linalg.signs import Election
from ..linalg.svd import block_diagonal, factored_triplets, leading_triplets
from ..registry import method
from .arithmetic import Scale, merge_linearly
from .common import per_expert
from .ties import Density, merge_agreeing, trim

#: Merges the experts' parts of V: [task, batch, r, n] and keys [task, batch] -> [batch, r, n].
MergeParts = Callable[[Tensor, Tensor], Tensor]

_LEFT_ONLY = "entries of V_t depend on the right basis; changes of the left one alone commute"


class Aligned(NamedTuple):
    """[w_1 D_1 .. w_T D_T] = U S [V_1 .. V_T]: `left` = U S [batch, m, k], `parts` V_t^T [task, batch, k, n]."""

    left: Float[Tensor, "batch m k"]
    parts: Float[Tensor, "task batch k n"]
    ranks: Int[Tensor, "batch"]


def align(
    deltas: Tensor | tuple[LowRank, ...], weights: Float[Tensor, "task"], floor: Float[Tensor, "batch"] | None
) -> Aligned:
    """The joint decomposition, cut to its numerical rank."""
    n_experts, (batch, m, n) = len(deltas), deltas[0].shape
    if isinstance(deltas, Tensor):
        joint = torch.cat([delta * weight for delta, weight in zip(deltas, weights, strict=True)], -1)
        left, values, right = leading_triplets(joint, min(m, n_experts * n), floor=floor)
        parts = right.reshape(batch, n_experts, n, -1).permute(1, 0, 3, 2)
    else:
        terms = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
        span = double(torch.cat([term.left for term in terms], -1))
        rights = [double(term.right) for term in terms]
        grams = span.mT @ span, block_diagonal([right @ right.mT for right in rights])
        coefficients, values, across = factored_triplets(*grams, m, n_experts * n, floor=floor)
        left = span @ coefficients
        own = across.split([term.rank for term in terms], -2)
        parts = torch.stack([turn.mT @ right for turn, right in zip(own, rights, strict=True)])
    parts = torch.where(parts.abs() > EPS, parts, 0.0)  # of a unit vector: rounding must not vote
    signs = _signs(parts)
    return Aligned(left * (values * signs).unsqueeze(-2), parts * signs.unsqueeze(-1), (values > 0).sum(-1))


def _signs(parts: Float[Tensor, "task batch k n"]) -> Float[Tensor, "batch k"]:
    """The signs that make the largest entry of each right vector positive: an SVD leaves them open, TIES does not."""
    rows = parts.permute(1, 2, 0, 3).flatten(-2)
    largest = rows.gather(-1, rows.abs().argmax(-1, keepdim=True)).squeeze(-1)
    return torch.where(largest < 0, -1.0, 1.0).to(parts)


def merge_aligned(aligned: Aligned, keys: Int[Tensor, "task batch"], merge: MergeParts, like: Tensor) -> LowRank:
    """U S V with V merged from the V_t, once for each rank that occurs in the batch: shares are of r n entries."""
    parts, ranks = aligned.parts.to(like), aligned.ranks
    right = torch.zeros_like(parts[0])
    for rank in ranks.unique().tolist():
        here = (ranks == rank).nonzero().squeeze(-1)
        if rank:
            right[here, :rank] = merge(parts[:, here, :rank], keys[:, here.to(keys.device)]).to(right)
    return LowRank(aligned.left.to(like), right.to(like))


def _knots(
    deltas: Tensor | tuple[LowRank, ...],
    weights: Float[Tensor, "task"],
    noise: Float[Tensor, "batch"] | None,
    keys: Int[Tensor, "task batch"] | None,
    merge: MergeParts,
) -> LowRank:
    like = deltas if isinstance(deltas, Tensor) else deltas[0].left
    aligned = align(deltas, weights, noise)
    no_keys = torch.zeros(len(deltas), len(aligned.ranks), dtype=torch.int64, device=like.device)
    return merge_aligned(aligned, no_keys if keys is None else keys, merge, like)


def _ties_parts(density: Any, election: Election, scale: float, normalize: bool) -> MergeParts:
    def merge(parts: Tensor, keys: Tensor) -> Tensor:
        ones = parts.new_ones(len(parts))
        trimmed = trim(parts, density, None)
        return merge_agreeing(trimmed, ones, scale=scale, normalize=normalize, election=election)

    return merge


def _dare_parts(density: Any, rescale: Rescale, scale: float) -> MergeParts:
    def merge(parts: Tensor, keys: Tensor) -> Tensor:
        kept = drop_by_lot(parts, keys, per_expert(density, len(parts)), rescale)
        return merge_linearly(kept, parts.new_ones(len(parts)), scale=scale, normalize=False)

    return merge


def _knots_ties(
    deltas: Tensor | tuple[LowRank, ...],
    weights: Float[Tensor, "task"],
    *,
    denoise: bool,
    noise: Float[Tensor, "batch"] | None,
    **rule: Any,
) -> LowRank:
    """`knots_ties` of matrices or of factors."""
    return _knots(deltas, weights, noise if denoise else None, None, _ties_parts(**rule))


def _knots_ties_factors(deltas: tuple[LowRank, ...], weights: Float[Tensor, "task"], **options: Any) -> LowRank:
    """`knots_ties` of factors."""
    return _knots_ties(deltas, weights, **options)


@method(
    "knots_ties",
    title="KnOTS-TIES",
    paper="arXiv:2410.19735",
    family="spectral",
    matrix_only=True,
    low_rank=_knots_ties_factors,
    exempt={"identity": "small entries of V_t are trimmed; it holds at density 1", "rotation": _LEFT_ONLY},
)
def knots_ties(
    deltas: Float[Tensor, "task batch m n"],
    weights: Float[Tensor, "task"],
    *,
    density: Density = 0.2,
    election: Election = "sum",
    scale: Scale = 1.0,
    normalize: bool = True,
    denoise: bool = False,
    noise: Float[Tensor, "batch"] | None = None,
) -> LowRank:
    """Write all experts in one basis U S, merge their coordinates V_t by TIES.

    D = U S TIES(V_1 .. V_T),  [w_1 D_1 .. w_T D_T] = U S [V_1 .. V_T] cut to its numerical rank

    Args:
        deltas: task vectors, matrices.
        weights: one for each expert; w_t D_t is what is decomposed, TIES weighs its V_t equally.
        density: share of the entries of V_t, by magnitude, that each expert keeps.
        election: elect the sign of the sum, or the one that more experts have.
        scale: factor of the result.
        normalize: take the mean of the agreeing entries; else their sum.
        denoise: drop singular values that the storage of the weights alone would make.
        noise: the level of that storage noise.

    Returns:
        The merged task vector, as factors.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> merged = get_method("knots_ties")(torch.eye(4).expand(3, 4, 4), density=1).dense()
        >>> torch.allclose(merged, torch.eye(4), atol=1e-5)
        True

    Reference:
        Stoica et al., "Model merging with SVD to tie the Knots", ICLR 2025, arXiv:2410.19735.

    Note:
        Singular values of [w_1 D_1 .. w_T D_T] at or under max(m, T n) * eps(float32) * S_max are dropped, and shares
        are of the entries that remain. Where singular values coincide their vectors, and with them what is trimmed,
        are not determined.
    """
    return _knots_ties(
        deltas, weights, density=density, election=election, scale=scale, normalize=normalize, denoise=denoise,
        noise=noise,
    )  # fmt: skip


def _knots_dare(
    deltas: Tensor | tuple[LowRank, ...],
    weights: Float[Tensor, "task"],
    *,
    denoise: bool,
    noise: Float[Tensor, "batch"] | None,
    keys: Int[Tensor, "task batch"],
    **rule: Any,
) -> LowRank:
    """`knots_dare` of matrices or of factors."""
    return _knots(deltas, weights, noise if denoise else None, keys, _dare_parts(**rule))


def _knots_dare_factors(deltas: tuple[LowRank, ...], weights: Float[Tensor, "task"], **options: Any) -> LowRank:
    """`knots_dare` of factors."""
    return _knots_dare(deltas, weights, **options)


@method(
    "knots_dare",
    title="KnOTS-DARE",
    paper="arXiv:2410.19735",
    family="spectral",
    matrix_only=True,
    random=True,
    low_rank=_knots_dare_factors,
    exempt={
        "identity": "entries of V_t are dropped by lot; it holds at density 1",
        "permutation": "each expert has its own mask; it holds where the masks move with them",
        "rotation": _LEFT_ONLY,
    },
)
def knots_dare(
    deltas: Float[Tensor, "task batch m n"],
    weights: Float[Tensor, "task"],
    *,
    density: Density = 0.5,
    rescale: Rescale = "probability",
    scale: Scale = 1.0,
    denoise: bool = False,
    noise: Float[Tensor, "batch"] | None = None,
    keys: Int[Tensor, "task batch"],
) -> LowRank:
    """Write all experts in one basis U S, drop entries of their coordinates V_t at random, add the rest.

    D = scale * U S sum_t m_t V_t / density,  [w_1 D_1 .. w_T D_T] = U S [V_1 .. V_T] cut to its numerical rank,
    m_t ~ Bernoulli(density)

    Args:
        deltas: task vectors, matrices.
        weights: one for each expert; w_t D_t is what is decomposed.
        density: probability with which an entry of V_t is kept.
        rescale: divide what is kept by the probability, or restore the sum of magnitudes, or leave it.
        scale: factor of the result.
        denoise: drop singular values that the storage of the weights alone would make.
        noise: the level of that storage noise.
        keys: of the masks.

    Returns:
        The merged task vector, as factors.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> merged = get_method("knots_dare")(torch.eye(4).expand(3, 4, 4), density=1).dense()
        >>> torch.allclose(merged, 3 * torch.eye(4), atol=1e-5)
        True

    Reference:
        Stoica et al., "Model merging with SVD to tie the Knots", ICLR 2025, arXiv:2410.19735; DARE: Yu et al.,
        arXiv:2311.03099.

    Note:
        This is DARE with the linear rule: what is kept is added. The paper's code has configurations of KnOTS with
        TIES and with DARE-TIES, which elects signs after the lot, and as far as we know none with this rule. Singular
        values of [w_1 D_1 .. w_T D_T] at or under max(m, T n) * eps(float32) * S_max are dropped.
    """
    return _knots_dare(
        deltas, weights, density=density, rescale=rescale, scale=scale, denoise=denoise, noise=noise, keys=keys
    )
