"""R-TSVM: TSV merging with outlier-aware weights and sparsity-adaptive ranks, reconstructed from its abstract."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..linalg.low_rank import LowRank, norms
from ..linalg.precision import double
from ..linalg.robust import Outliers
from ..registry import Accumulator, Range, method
from .arithmetic import Scale
from .reweighting import (
    DeltaScales,
    Granularity,
    RankRule,
    Statistics,
    ranks_above_noise,
    ranks_by_share,
    ranks_by_task,
    reweighted,
    sparsity,
)
from .tsv import Spectra, dense_spectra, factored_spectra, merge_spectra, noise_floors, per_matrix

RECONSTRUCTION = (
    "A reconstruction: the abstract of arXiv:2502.06876 names outlier-aware weighting and sparsity-adaptive rank "
    "selection on top of TSV merging, but does not give their formulas; these are ours."
)


class Selection(NamedTuple):
    """What R-TSVM decided: ranks k_t, sparsity s_t (None where it is not asked) and the factor that kept each norm."""

    ranks: Int[Tensor, "task batch"]
    sparsity: Float[Tensor, "task batch"] | None
    rescaled: Float[Tensor, "task batch"]


def _prepare(parameters: Mapping[str, Any], n_experts: int) -> Accumulator | None:
    """The pass for root mean squares; none where neither ranks nor layers need them."""
    by_sparsity = parameters["gamma"] != 0 and parameters["rank_rule"] != "noise"
    if not by_sparsity and parameters["granularity"] != "layer":
        return None
    return DeltaScales(n_experts, parameters["kappa"], parameters["outliers"], parameters["preserve_norm"])


def _factors_suffice(parameters: Mapping[str, Any]) -> bool:
    return parameters["granularity"] != "entry"


def select(
    deltas: Tensor | tuple[LowRank, ...],
    weights: Float[Tensor, "task"],
    *,
    granularity: Granularity,
    outliers: Outliers,
    kappa: float,
    preserve_norm: bool,
    gamma: float,
    epsilon: float,
    rank_rule: RankRule,
    denoise: bool,
    noise: Float[Tensor, "batch"] | None,
    statistics: Statistics | None,
    names: tuple[str, ...] | None,
) -> tuple[Spectra, Selection]:
    """Weight outliers, decompose, choose ranks: all of R-TSVM but the merge itself."""
    n_experts, (batch, m, n) = len(deltas), deltas[0].shape
    weighted, factors = _weight_outliers(
        deltas, granularity, outliers, kappa, preserve_norm, epsilon, statistics, names
    )
    floors = noise_floors(noise, denoise, n_experts)
    if floors is not None:
        floors = [floor.to(factor) / factor for floor, factor in zip(floors, factors)]
    k = min(m, n) // n_experts
    if isinstance(weighted, Tensor):
        spectra = dense_spectra(weighted, min(m, n) if gamma and rank_rule != "task" else k, floors)
    else:
        spectra = factored_spectra(weighted, floors)
    limits = spectra.counts * (weights != 0).to(spectra.counts).unsqueeze(-1)
    ranks = limits.clamp_max(k)
    if gamma == 0:
        return spectra, Selection(ranks, None, factors)
    if rank_rule == "noise":
        found = torch.stack([ranks_above_noise(each.values, (m, n), gamma) for each in spectra.triplets])
        return spectra, Selection(torch.minimum(ranks, found.to(ranks).clamp_min(1)), None, factors)
    if statistics is None:
        rms = torch.stack([norms(delta) for delta in deltas]) / math.sqrt(max(m * n, 1))
    else:
        rms = factors.new_tensor(statistics.rms).unsqueeze(-1).expand(-1, batch)
    sparse = sparsity(deltas, epsilon, rms).to(ranks.device)
    if rank_rule == "share":
        return spectra, Selection(ranks_by_share(ranks, sparse, gamma, limits), sparse, factors)
    return spectra, Selection(ranks_by_task(ranks, sparse, gamma), sparse, factors)


def _weight_outliers(
    deltas: Tensor | tuple[LowRank, ...],
    granularity: Granularity,
    outliers: Outliers,
    kappa: float,
    preserve_norm: bool,
    epsilon: float,
    statistics: Statistics | None,
    names: tuple[str, ...] | None,
) -> tuple[Tensor | tuple[LowRank, ...], Float[Tensor, "task batch"]]:
    """The weighted deltas, and what their singular values must be multiplied with besides."""
    like = deltas if isinstance(deltas, Tensor) else deltas[0].left
    factors = double(like.new_ones(len(deltas), deltas[0].shape[0]))
    if outliers == "none" or math.isinf(kappa):
        return deltas, factors
    if granularity == "layer":
        if statistics is not None and names is not None:
            ones = (1.0,) * len(deltas)
            factors = factors.new_tensor([statistics.layers.get(name, ones) for name in names]).mT
        return deltas, factors
    if granularity == "auto":
        granularity = "entry" if isinstance(deltas, Tensor) else "channel"
    weighted = [reweighted(delta, granularity, kappa, outliers, epsilon) for delta in deltas]
    if preserve_norm:
        before = torch.stack([norms(delta) for delta in deltas])
        after = torch.stack([norms(delta) for delta in weighted])
        factors = torch.where(after > 0, before / torch.where(after > 0, after, 1.0), 1.0)
    return torch.stack(weighted) if isinstance(deltas, Tensor) else tuple(weighted), factors  # type: ignore[arg-type]


def _merge(
    deltas: Tensor | tuple[LowRank, ...], weights: Float[Tensor, "task"], scale: float, **options: Any
) -> LowRank:
    spectra, chosen = select(deltas, weights, **options)
    like = deltas if isinstance(deltas, Tensor) else deltas[0].left
    factors = per_matrix(weights, scale, deltas[0].shape[0]).to(chosen.rescaled) * chosen.rescaled
    return merge_spectra(spectra, chosen.ranks, factors, like)


def _r_tsvm_factors(deltas: tuple[LowRank, ...], weights: Float[Tensor, "task"], **options: Any) -> LowRank:
    """`r_tsvm` of factors, by channel or layer; the matrices are never formed, but for the rows that are counted."""
    return _merge(deltas, weights, **options)


@method(
    "r_tsvm",
    title="R-TSVM (RESM)",
    paper="arXiv:2502.06876",
    family="spectral",
    aliases=("resm",),
    matrix_only=True,
    low_rank=_r_tsvm_factors,
    low_rank_when=_factors_suffice,
    prepare=_prepare,
    reconstruction=RECONSTRUCTION,
    exempt={
        "identity": "outliers are damped and sparse deltas cut; it holds for one expert with outliers none and gamma 0",
        "rotation": "entries, rows, columns and sparsity depend on the basis; it holds for gamma 0 with outliers none, "
        "or granularity layer",
    },
)
def r_tsvm(
    deltas: Float[Tensor, "task batch m n"],
    weights: Float[Tensor, "task"],
    *,
    scale: Scale = 1.0,
    granularity: Granularity = "auto",
    outliers: Outliers = "damp",
    kappa: Annotated[float, Range(0, low_open=True)] = 3.0,
    preserve_norm: bool = True,
    gamma: Annotated[float, Range(0, 100)] = 1.0,
    epsilon: Annotated[float, Range(0, 1000)] = 0.1,
    rank_rule: RankRule = "task",
    denoise: bool = False,
    noise: Float[Tensor, "batch"] | None = None,
    statistics: Statistics | None = None,
    names: tuple[str, ...] | None = None,
) -> LowRank:
    """TSV merging with outliers damped and fewer singular triplets of sparse deltas: a reconstruction.

    D = tsv_merge of D_t' = c_t h * D_t,  h = min(1, kappa / z),  |D_t'| = |D_t|, with
    k_t = max(1, floor(k_t^TSV (1 - s_t)^gamma)),  s_t = share of |D_t| <= epsilon rms_t

    z is a robust z-score: of entries, |x| / (1.4826 median |x|) over those above epsilon times the matrix's root mean
    square (a sparse change would be all outliers else); of the norms of rows and columns, max(0, x - median) / (1.4826
    MAD), the weight of an entry being h(row) h(column); of layers the same with the root mean squares of one module
    over the layers. s_t is counted on D_t itself, before weights of either kind.

    Args:
        deltas: task vectors, matrices.
        weights: one for each expert; w_t D_t' is what is decomposed.
        scale: factor of the result.
        granularity: what is weighted: each entry, rows and columns (channel), or whole layers; auto takes channel where
            all experts are low-rank, which keeps them so, else entry.
        outliers: damp them (h), boost them (1 / h, at most kappa), or none.
        kappa: robust standard deviations from which on something is an outlier; inf for none.
        preserve_norm: rescale to the Frobenius norm from before the weighting (under layer, that of the whole model).
        gamma: how strongly sparsity lowers the rank; 0 for not at all.
        epsilon: entries at or under this, times the root mean square of the expert's whole delta, count as zeros; for
            the scale of entries, times that of the matrix.
        rank_rule: cut each expert's rank by its own sparsity (task), share out the ranks of TSV merging among the
            experts by it (share), or keep the singular values above gamma times the threshold for noise of
            arXiv:1305.5870 (noise), at least one.
        denoise: drop singular values that the storage of the weights alone would make.
        noise: the level of that storage noise.
        statistics: root mean squares and layers' weights of the whole model; None takes each matrix as a model.
        names: the matrices' names.

    Returns:
        The merged task vector, as factors.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> deltas = torch.randn(3, 12, 9, generator=torch.Generator().manual_seed(0))
        >>> merged = get_method("r_tsvm")(deltas)
        >>> merged.shape, merged.rank
        (torch.Size([12, 9]), 6)
        >>> plain = get_method("r_tsvm")(deltas, kappa=float("inf"), gamma=0)
        >>> torch.equal(plain.dense(), get_method("tsv_merge")(deltas).dense())
        True

    Reference:
        Yang et al., "Mix Data or Merge Models? Balancing the Helpfulness, Honesty, and Harmlessness of Large Language
        Model via Model Merging", arXiv:2502.06876 (R-TSVM; RESM from its third version on).

    Note:
        This is a reconstruction from the paper's abstract, arXiv:2502.06876, which names outlier-aware weighting and
        sparsity-adaptive rank selection on top of TSV merging but gives no formulas; these are ours. Sparsity is
        counted on so many rows, drawn by a fixed seed, that its standard error is under 0.5 % (all rows of matrices
        with no more than 256), the same rows for a matrix and for its factors. A matrix and its factors give the same
        result at one `granularity`; auto takes another one for each.
    """
    return _merge(
        deltas, weights, scale, granularity=granularity, outliers=outliers, kappa=kappa, preserve_norm=preserve_norm,
        gamma=gamma, epsilon=epsilon, rank_rule=rank_rule, denoise=denoise, noise=noise, statistics=statistics,
        names=names,
    )  # fmt: skip
