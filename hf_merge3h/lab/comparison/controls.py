"""Controls of R-TSVM's ablation, methods only within `registered()`.

`random_weights` weights as many entries as strongly as R-TSVM does, but others: whatever it gains over this is owed to
which entries are outliers. `uniform_cut` keeps as many singular triplets as R-TSVM, but the same share of each expert
and matrix: whatever R-TSVM gains over this is owed to telling sparse changes from dense ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...linalg.low_rank import LowRank, norms
from ...linalg.robust import reweighted_entries
from ...methods.arithmetic import Scale
from ...methods.tsv import dense_spectra, merge_spectra, merge_tasks, per_matrix
from ...registry import Range, method, unregister

_WHY = "a control of the lab's ablation: its weights or ranks are not those of a merging method"


def random_weights(
    deltas: Float[Tensor, "task batch m n"],
    weights: Float[Tensor, "task"],
    *,
    scale: Scale = 1.0,
    kappa: Annotated[float, Range(0, low_open=True)] = 3.0,
    epsilon: Annotated[float, Range(0, 1000)] = 0.1,
) -> LowRank:
    """TSV merging after R-TSVM's outlier weights were dealt to entries drawn at random; norms are kept.

    Args:
        deltas: task vectors, matrices.
        weights: one for each expert.
        scale: factor of the result.
        kappa: robust standard deviations from which on something is an outlier.
        epsilon: entries at or under this, times the matrix's root mean square, count as zeros.

    Returns:
        The merged task vector, as factors.
    """
    damped = torch.stack([reweighted_entries(delta, kappa, "damp", epsilon) for delta in deltas])
    ratio = torch.where(deltas != 0, damped / torch.where(deltas != 0, deltas, 1.0), 1.0)
    flat = ratio.flatten(2)
    generator = torch.Generator().manual_seed(0)
    dealt = flat[..., torch.randperm(flat.shape[-1], generator=generator)].view_as(ratio)
    weighted = deltas * dealt
    before, after = (torch.stack([norms(each) for each in stack]) for stack in (deltas, weighted))
    factors = torch.where(after > 0, before / torch.where(after > 0, after, 1.0), 1.0)
    spectra = dense_spectra(weighted, min(deltas.shape[-2:]) // len(deltas))
    ranks = spectra.counts.clamp_max(min(deltas.shape[-2:]) // len(deltas))
    scales = per_matrix(weights, scale, deltas.shape[1]).to(factors) * factors
    return merge_spectra(spectra, ranks, scales, deltas)


def uniform_cut(
    deltas: Float[Tensor, "task batch m n"],
    weights: Float[Tensor, "task"],
    *,
    scale: Scale = 1.0,
    share: Annotated[float, Range(0, 1, low_open=True)] = 0.9,
) -> LowRank:
    """TSV merging with `share` of each expert's ranks.

    Args:
        deltas: task vectors, matrices.
        weights: one for each expert.
        scale: factor of the result.
        share: of min(m, n) // T triplets, at least one.

    Returns:
        The merged task vector, as factors.
    """
    k = max(1, int(share * (min(deltas.shape[-2:]) // len(deltas))))
    return merge_tasks(dense_spectra(deltas, k), weights, scale, deltas)


_CONTROLS: Mapping[str, tuple[Callable[..., LowRank], Mapping[str, Any]]] = {
    "random_weights": (
        random_weights,
        {"title": "TSV-Merge with R-TSVM's weights on other entries", "paper": "arXiv:2502.06876"},
    ),
    "uniform_cut": (
        uniform_cut,
        {"title": "TSV-Merge with the same share of ranks everywhere", "paper": "arXiv:2412.00081"},
    ),
}


@contextmanager
def registered() -> Iterator[None]:
    """Make the controls methods for as long as the block lasts; nobody else's lists have them."""
    exempt = {"identity": _WHY, "rotation": _WHY}
    for name, (function, facts) in _CONTROLS.items():
        method(name, **facts, family="control", matrix_only=True, exempt=exempt)(function)
    try:
        yield
    finally:
        for name in _CONTROLS:
            unregister(name)
