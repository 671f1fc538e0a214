"""DELLA: drop entries by lot, small ones more often, then merge linearly or by sign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from ..linalg.dropping import Rescale, drop_by_rank
from ..linalg.signs import Election
from ..linalg.sparsify import row_length
from ..passes import Elementwise
from ..registry import Parts, method
from .arithmetic import Scale, merge_linearly
from .common import DRAWN, Share, check_sum, per_expert
from .dare import restored_parts
from .ties import Density, merge_agreeing


def _drop(
    vectors: Float[Tensor, "task batch *shape"],
    keys: Int[Tensor, "task batch"],
    density: float | tuple[float, ...],
    epsilon: float | tuple[float, ...],
    rescale: Rescale,
    *,
    start: int = 0,
) -> Float[Tensor, "task batch *shape"]:
    densities, windows = per_expert(density, len(vectors)), per_expert(epsilon, len(vectors))
    return drop_by_rank(vectors, keys, densities, windows, rescale, start=start)


def _parts(
    merge: Callable[..., Tensor], options: tuple[str, ...]
) -> Callable[[Mapping[str, Any], Tensor, Mapping[str, Any], tuple[int, ...]], Parts]:
    """DELLA on whole rows of one tensor."""

    def make(
        parameters: Mapping[str, Any], weights: Tensor, supplied: Mapping[str, Any], shape: tuple[int, ...]
    ) -> Parts:
        unit, rest = row_length(shape), {name: parameters[name] for name in options}
        density, epsilon, rule = (parameters[name] for name in ("density", "epsilon", "rescale"))

        def drop(rescale: Rescale, start: int, part: Tensor) -> Tensor:
            rows = part.unflatten(-1, (-1, unit)) if len(shape) > 1 else part
            return _drop(rows, supplied["keys"], density, epsilon, rescale, start=start).flatten(2)

        if rule == "l1":
            kept = partial(drop, "none")
            return restored_parts(kept, lambda part: merge(part, weights, **rest), len(weights), shape)
        return Elementwise(lambda start, part: merge(drop(rule, start, part), weights, **rest), unit)

    return make


@method(
    "della_linear",
    title="DELLA (linear)",
    paper="arXiv:2406.11617",
    family="drop",
    random=True,
    parts=_parts(merge_linearly, ("scale", "normalize")),
    check=check_sum,
    exempt=DRAWN,
)
def della_linear(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    density: Density = 0.5,
    epsilon: Share = 0.15,
    rescale: Rescale = "probability",
    scale: Scale = 1.0,
    normalize: bool = False,
    keys: Int[Tensor, "task batch"],
) -> Float[Tensor, "batch *shape"]:
    """Drop small entries more often than large ones, rescale the rest, add the weighted task vectors.

    D = scale * sum_t w_t m_t D_t / p_t,  m_t ~ Bernoulli(p_t),  p_t = density - epsilon + 2 epsilon rank / (n - 1)

    The rank, from 0 to n - 1, is that of the entry's magnitude in its row of n.

    Args:
        vectors: task vectors.
        weights: one for each expert.
        density: mean probability with which an entry is kept.
        epsilon: half the width of the window of probabilities; what lies outside [0.01, 1] is moved to its end.
        rescale: divide each kept entry by its probability, or restore the tensor's sum of magnitudes, or leave it.
        scale: factor of the sum.
        normalize: divide by the sum of the weights.
        keys: of the masks.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("della_linear")(torch.tensor([[3.0, -4.0], [1.0, 6.0]]), density=1)
        tensor([4., 2.])

    Reference:
        Deep et al., "DELLA-Merging", arXiv:2406.11617.

    Note:
        The window is density +- epsilon; the paper's epsilon is its whole width, twice ours. Density 1 drops nothing.
    """
    kept = _drop(vectors, keys, density, epsilon, rescale)
    return merge_linearly(kept, weights, scale=scale, normalize=normalize)


@method(
    "della",
    title="DELLA",
    paper="arXiv:2406.11617",
    family="drop",
    random=True,
    parts=_parts(merge_agreeing, ("scale", "normalize", "election")),
    check=check_sum,
    exempt=DRAWN,
)
def della(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    density: Density = 0.5,
    epsilon: Share = 0.15,
    rescale: Rescale = "probability",
    election: Election = "sum",
    scale: Scale = 1.0,
    normalize: bool = True,
    keys: Int[Tensor, "task batch"],
) -> Float[Tensor, "batch *shape"]:
    """Drop small entries more often than large ones, rescale the rest, then elect signs and average as TIES does.

    TIES over m_t D_t / p_t,  m_t ~ Bernoulli(p_t),  p_t = density - epsilon + 2 epsilon rank / (n - 1)

    Args:
        vectors: task vectors.
        weights: one for each expert.
        density: mean probability with which an entry is kept.
        epsilon: half the width of the window of probabilities; what lies outside [0.01, 1] is moved to its end.
        rescale: divide each kept entry by its probability, or restore the tensor's sum of magnitudes, or leave it.
        election: elect the sign of the weighted sum, or the one that more experts have.
        scale: factor of the result.
        normalize: divide by the sum of the agreeing weights (the mean); else the sum stands.
        keys: of the masks.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("della")(torch.tensor([[3.0, -4.0], [1.0, 6.0]]), density=1)
        tensor([2., 6.])

    Reference:
        Deep et al., "DELLA-Merging", arXiv:2406.11617.

    Note:
        The window is density +- epsilon; the paper's epsilon is its whole width, twice ours. Density 1 drops nothing.
    """
    kept = _drop(vectors, keys, density, epsilon, rescale)
    return merge_agreeing(kept, weights, scale=scale, normalize=normalize, election=election)
