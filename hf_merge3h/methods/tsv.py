"""Task singular vectors: keep the leading singular triplets of each expert, make them orthogonal, add them up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..linalg.low_rank import LowRank
from ..linalg.parallel import concurrently, pieces, side_by_side
from ..linalg.polar import polar, polar_in_span
from ..linalg.precision import double
from ..linalg.span import Span
from ..linalg.svd import LARGE, Triplets, block_diagonal, factored_triplets, first_triplets, leading_triplets
from ..registry import method
from .arithmetic import Scale


class Spectra(NamedTuple):
    """Each expert's singular triplets; under a `span` the vectors are coefficients over that expert's own factors."""

    triplets: tuple[Triplets, ...]
    shape: tuple[int, int]
    span: Span | None = None

    @property
    def counts(self) -> Int[Tensor, "task batch"]:
        """How many triplets each expert has above its floor."""
        return torch.stack([(each.values > 0).sum(-1) for each in self.triplets])


def dense_spectra(deltas: Float[Tensor, "task batch m n"], k: int, floors: Sequence[Tensor] | None = None) -> Spectra:
    """The first k triplets of each expert."""
    limits = [None] * len(deltas) if floors is None else floors
    if not _is_large(deltas, k):
        found = [leading_triplets(delta, k, floor=limit) for delta, limit in zip(deltas, limits, strict=True)]
        return Spectra(tuple(found), (deltas.shape[-2], deltas.shape[-1]))
    count = len(pieces(deltas[0]))
    jobs = [
        partial(leading_triplets, part, k, floor=bound)
        for delta, limit in zip(deltas, limits, strict=True)
        for part, bound in zip(pieces(delta), [None] * count if limit is None else pieces(limit), strict=True)
    ]
    done = concurrently(jobs)
    tasks = [done[start : start + count] for start in range(0, len(done), count)]
    found = [Triplets(*map(torch.cat, zip(*task, strict=True))) for task in tasks]
    return Spectra(tuple(found), (deltas.shape[-2], deltas.shape[-1]))


def _is_large(stack: Tensor, k: int) -> bool:
    """Whether decompositions are worth a thread each (the CPU's; other devices have their own ways)."""
    return stack.device.type == "cpu" and min(stack.shape[-2:]) >= LARGE and k > 0


def _polar_pair(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The polar factors of both stacks of vectors."""
    if not _is_large(left, left.shape[-1]):
        return polar(left), polar(right)
    lefts, rights = pieces(left), pieces(right)
    done = concurrently([partial(polar, part) for part in (*lefts, *rights)])
    return torch.cat(done[: len(lefts)]), torch.cat(done[len(lefts) :])


def factored_spectra(deltas: Sequence[LowRank], floors: Sequence[Tensor] | None = None) -> Spectra:
    """All triplets of each expert, from the Gram matrices of all factors side by side."""
    m, n = deltas[0].shape[-2:]
    span = Span.of(deltas)
    limits = [None] * len(deltas) if floors is None else floors
    jobs = [
        partial(factored_triplets, span.gram_left[..., own, own], span.gram_right[..., own, own], m, n, floor=limit)
        for own, limit in zip(span.own, limits, strict=True)
    ]
    return Spectra(tuple(side_by_side(jobs, span.gram_left)), (m, n), span)


def merge_spectra(
    spectra: Spectra, ranks: Int[Tensor, "task batch"], factors: Float[Tensor, "task batch"], like: Tensor
) -> LowRank:
    """The sum of the first k_t triplets of each expert, after both stacks of vectors became their polar factors.

    Args:
        spectra: each expert's triplets.
        ranks: k_t.
        factors: what each expert's singular values are multiplied with.
        like: gives the result's device and dtype.

    Returns:
        Factors with as many columns as the tasks' largest k_t add up to; those that a matrix does not use are zero.
    """
    kept = [first_triplets(each, rank) for each, rank in zip(spectra.triplets, ranks, strict=True)]
    values = torch.cat([each.values * factor.to(each.values).unsqueeze(-1) for each, factor in zip(kept, factors)], -1)
    lefts, rights = [each.left for each in kept], [each.right for each in kept]
    if spectra.span is None:
        left, right = _polar_pair(torch.cat(lefts, -1), torch.cat(rights, -1))
        return LowRank((left * values.unsqueeze(-2).to(left)).to(like), right.mT.to(like))
    span, (m, n) = spectra.span, spectra.shape
    jobs = [
        partial(polar_in_span, block_diagonal(lefts), span.gram_left, m),
        partial(polar_in_span, block_diagonal(rights), span.gram_right, n),
    ]
    left, right = side_by_side(jobs, span.gram_left)
    return span.combine(left * values.unsqueeze(-2), right, like)


def noise_floors(
    noise: Float[Tensor, "batch"] | None, denoise: bool, n_experts: int
) -> list[Float[Tensor, "batch"]] | None:
    """The floor under each expert's singular values that `denoise` sets."""
    return [noise] * n_experts if denoise and noise is not None else None


def per_matrix(weights: Float[Tensor, "task"], scale: float, batch: int) -> Float[Tensor, "task batch"]:
    """scale * w_t for each matrix, float64."""
    return (double(weights) * scale).unsqueeze(-1).expand(-1, batch)


def published(deltas: Float[Tensor, "task batch m n"], weights: Float[Tensor, "task"], scale: float) -> LowRank:
    """TSV-M as published: T + 2 decompositions in the compute dtype, no truncation to the numerical rank."""
    k = min(deltas.shape[-2:]) // len(deltas)
    lefts, values, rights = [], [], []
    for delta, weight in zip(deltas, weights, strict=True):
        left, value, right = torch.linalg.svd(delta * weight, full_matrices=False)
        lefts.append(left[..., :k])
        values.append(value[..., :k])
        rights.append(right[..., :k, :])
    left, _, turn = torch.linalg.svd(torch.cat(lefts, -1), full_matrices=False)
    turn_right, _, right = torch.linalg.svd(torch.cat(rights, -2), full_matrices=False)
    return LowRank((left @ turn) * (torch.cat(values, -1) * scale).unsqueeze(-2), turn_right @ right)


def _tsv_factors(deltas: tuple[LowRank, ...], weights: Float[Tensor, "task"], **options: Any) -> LowRank:
    """`tsv_merge` of factors; the matrices are never formed."""
    floors = noise_floors(options["noise"], options["denoise"], len(deltas))
    return merge_tasks(factored_spectra(deltas, floors), weights, options["scale"], deltas[0].left)


def merge_tasks(spectra: Spectra, weights: Float[Tensor, "task"], scale: float, like: Tensor) -> LowRank:
    """TSV merging with k_t = min(min(m, n) // T, numerical rank of D_t)."""
    counts = spectra.counts.clamp_max(min(spectra.shape) // len(spectra.triplets))
    counts = counts * (weights != 0).to(counts).unsqueeze(-1)
    return merge_spectra(spectra, counts, per_matrix(weights, scale, counts.shape[1]), like)


def _factors_suffice(parameters: Mapping[str, Any]) -> bool:
    return not parameters["reference"]


@method(
    "tsv_merge",
    title="TSV-Merge",
    paper="arXiv:2412.00081",
    family="spectral",
    matrix_only=True,
    low_rank=_tsv_factors,
    low_rank_when=_factors_suffice,
    exempt={"identity": "equal experts at weight 1 each, not 1/T, give that expert, up to rank min(m, n) // T"},
)
def tsv_merge(
    deltas: Float[Tensor, "task batch m n"],
    weights: Float[Tensor, "task"],
    *,
    scale: Scale = 1.0,
    denoise: bool = False,
    reference: bool = False,
    noise: Float[Tensor, "batch"] | None = None,
) -> LowRank:
    """Keep each expert's leading singular triplets, make them orthogonal across experts, add them up.

    D = scale * polar([U_1 .. U_T]) diag(S_1 .. S_T) polar([V_1 .. V_T])^T,  w_t D_t = U_t S_t V_t^T cut to
    k_t = min(min(m, n) // T, numerical rank of D_t) triplets

    Args:
        deltas: task vectors, matrices.
        weights: one for each expert; w_t D_t is what is decomposed.
        scale: factor of the result.
        denoise: drop singular values that the storage of the weights alone would make.
        reference: the procedure as published, for comparison: T + 2 dense decompositions, no numerical rank.
        noise: the level of that storage noise.

    Returns:
        The merged task vector, as factors.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> helpful, harmless = torch.zeros(2, 4), torch.zeros(2, 4)
        >>> helpful[0, 0], harmless[1, 1] = 3.0, 2.0
        >>> get_method("tsv_merge")(torch.stack([helpful, harmless])).dense()
        tensor([[3., 0., 0., 0.],
                [0., 2., 0., 0.]])

    Reference:
        Gargiulo et al., "Task Singular Vectors", CVPR 2025, arXiv:2412.00081.

    Note:
        The paper does not truncate to the numerical rank. On deltas that lack rank, as all LoRA's do, the polar factor
        then lets arbitrary vectors of the null space in, and float32 and float64 give unlike results. Ours drops them,
        and a stack of bases that lacks rank itself (equal experts, shared factors) gets a partial isometry.
        `reference=True` does neither. Experts that change unlike directions add up, equal ones do not. Large dense
        matrices (512 singular values or more) are decomposed in float32 where that is safe, each on one thread, so
        that the number of threads changes no bit. Equivalent inputs (another basis; in calls like the one above,
        experts in another order) and other processors agree to about 1e-5 there, elsewhere to 1e-6.
    """
    if reference:
        return published(deltas, weights, scale)
    m, n = deltas.shape[-2:]
    spectra = dense_spectra(deltas, min(m, n) // len(deltas), noise_floors(noise, denoise, len(deltas)))
    return merge_tasks(spectra, weights, scale, deltas)
