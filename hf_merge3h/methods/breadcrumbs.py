"""Model Breadcrumbs: drop both tails of the magnitudes, then merge linearly or by sign."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..linalg.dropping import restored
from ..linalg.select import StreamedRanks
from ..linalg.signs import Election
from ..linalg.sparsify import below, greater_each, keep_middle, row_length, window
from ..passes import Searched
from ..registry import Parts, method
from .arithmetic import Scale, merge_linearly
from .common import L1, Share, check_sum, per_expert, trimmed_parts
from .ties import Density, merge_agreeing

_CUT = {"identity": "outliers and small entries are dropped; it holds at density 1"}


def drop_tails(
    vectors: Float[Tensor, "task batch *shape"],
    density: float | tuple[float, ...],
    gamma: float | tuple[float, ...],
    rescale: L1 = "none",
) -> Float[Tensor, "task batch *shape"]:
    """Breadcrumbs: drop the largest `gamma` share and so many of the smallest that `density` remains.

    With `rescale="l1"` each expert's sum of magnitudes is then restored.
    """
    shares, tops = per_expert(density, len(vectors)), per_expert(gamma, len(vectors))
    kept = torch.stack(
        [keep_middle(vector, share, top) for vector, share, top in zip(vectors, shares, tops, strict=True)]
    )
    return restored(vectors, kept) if rescale == "l1" else kept


def _parts(
    merge: Callable[..., Tensor], options: tuple[str, ...]
) -> Callable[[Mapping[str, Any], Tensor, Mapping[str, Any], tuple[int, ...]], Parts]:
    """Breadcrumbs on one tensor part by part, with the thresholds of the whole tensor."""

    def make(
        parameters: Mapping[str, Any], weights: Tensor, supplied: Mapping[str, Any], shape: tuple[int, ...]
    ) -> Parts:
        rest, n = {name: parameters[name] for name in options}, math.prod(shape)
        shares, tops = (per_expert(parameters[name], len(weights)) for name in ("density", "gamma"))
        unit = row_length(shape) if parameters["rescale"] == "l1" else 1
        ranks = [_ranks(share, top, n) for share, top in zip(shares, tops, strict=True)]

        def after(found: list[list[float]]) -> Parts:
            # Of each expert the least magnitude, and the greatest where outliers are cut; at density 1 all stays.
            least = [below(row[0]) if row else None for row in found]
            most = [row[1] if len(row) > 1 else math.inf for row in found]
            cut = any(bound < math.inf for bound in most)

            def drop(part: Tensor) -> Tensor:
                kept = greater_each(part, least)
                return kept.sub_(greater_each(kept, most)) if cut else kept

            return trimmed_parts(drop, lambda kept: merge(kept, weights, **rest), parameters["rescale"], unit)

        return Searched(StreamedRanks(ranks, n), after, unit)

    return make


def _ranks(share: float, top: float, n: int) -> tuple[int, ...]:
    """Of the smallest entry that is kept, and of the largest where outliers are dropped."""
    outliers, kept = window(share, top, n)
    if share >= 1:
        return ()
    return (outliers + kept, outliers + 1) if outliers else (outliers + kept,)


@method(
    "breadcrumbs",
    title="Model Breadcrumbs",
    paper="arXiv:2312.06795",
    family="drop",
    parts=_parts(merge_linearly, ("scale", "normalize")),
    check=check_sum,
    exempt=_CUT,
)
def breadcrumbs(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    density: Density = 0.9,
    gamma: Share = 0.01,
    rescale: L1 = "none",
    scale: Scale = 1.0,
    normalize: bool = False,
) -> Float[Tensor, "batch *shape"]:
    """Drop the largest and the smallest entries, add the weighted task vectors.

    D = scale * sum_t w_t m_t D_t,  m_t keeps the `density` share that comes after the largest `gamma` share

    Args:
        vectors: task vectors.
        weights: one for each expert.
        density: share of the entries that is kept.
        gamma: share of the largest entries that is dropped; less where no `density` share would remain.
        rescale: restore each tensor's sum of magnitudes after dropping, expert by expert, or leave it.
        scale: factor of the sum.
        normalize: divide by the sum of the weights.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("breadcrumbs")(torch.tensor([[1.0, 9.0, -3.0, 4.0]]), density=0.5, gamma=0.25)
        tensor([ 0.,  0., -3.,  4.])

    Reference:
        Davari and Belilovsky, "Model Breadcrumbs", ECCV 2024, arXiv:2312.06795.

    Note:
        Shares are rounded down, so that `gamma` drops nothing of a tensor of fewer than 1/gamma entries. Entries as
        large as the first or the last one kept are kept too.
    """
    return merge_linearly(drop_tails(vectors, density, gamma, rescale), weights, scale=scale, normalize=normalize)


@method(
    "breadcrumbs_ties",
    title="Model Breadcrumbs (TIES)",
    paper="arXiv:2312.06795",
    family="drop",
    parts=_parts(merge_agreeing, ("scale", "normalize", "election")),
    check=check_sum,
    exempt=_CUT,
)
def breadcrumbs_ties(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    density: Density = 0.9,
    gamma: Share = 0.01,
    rescale: L1 = "none",
    election: Election = "sum",
    scale: Scale = 1.0,
    normalize: bool = True,
) -> Float[Tensor, "batch *shape"]:
    """Drop the largest and the smallest entries, then elect signs and average as TIES does.

    TIES over m_t D_t,  m_t keeps the `density` share that comes after the largest `gamma` share

    Args:
        vectors: task vectors.
        weights: one for each expert.
        density: share of the entries that is kept.
        gamma: share of the largest entries that is dropped; less where no `density` share would remain.
        rescale: restore each tensor's sum of magnitudes after dropping, expert by expert, or leave it.
        election: elect the sign of the weighted sum, or the one that more experts have.
        scale: factor of the result.
        normalize: divide by the sum of the agreeing weights (the mean); else the sum stands.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("breadcrumbs_ties")(torch.tensor([[3.0, -4.0], [1.0, 6.0]]), density=1)
        tensor([2., 6.])

    Reference:
        Davari and Belilovsky, "Model Breadcrumbs", ECCV 2024, arXiv:2312.06795.

    Note:
        Shares and equal magnitudes are treated as by `breadcrumbs`.
    """
    kept = drop_tails(vectors, density, gamma, rescale)
    return merge_agreeing(kept, weights, scale=scale, normalize=normalize, election=election)
