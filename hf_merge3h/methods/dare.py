"""DARE: drop entries by lot, then merge linearly or by sign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..linalg.blocks import magnitudes
from ..linalg.random import bernoulli
from ..linalg.signs import Election
from ..linalg.sparsify import Rescale, l1_factor, rescaled, row_length
from ..passes import Elementwise, Searched, Total
from ..registry import Parts, method
from .arithmetic import Scale, merge_linearly
from .common import DRAWN, check_sum, per_expert
from .ties import Density, merge_agreeing


def drop_by_lot(
    vectors: Float[Tensor, "task batch *shape"],
    keys: Int[Tensor, "task batch"],
    density: float | tuple[float, ...],
    rescale: Rescale,
    *,
    start: int = 0,
    factors: Float[Tensor, "task batch"] | None = None,
) -> Float[Tensor, "task batch *shape"]:
    """DARE: keep each entry with probability `density`.

    Args:
        vectors: task vectors, or a part of them.
        keys: of the masks.
        density: for all experts, or for each.
        rescale: what is done to the kept entries.
        start: where in the flattened tensor the part begins.
        factors: of the rule "l1", where it is a part.
    """
    shares = per_expert(density, len(vectors))
    own = [None] * len(vectors) if factors is None else factors
    return torch.stack(
        [
            rescaled(vector, bernoulli(key, share, vector.shape[1:], start=start), share, rescale, factor)
            for vector, key, share, factor in zip(vectors, keys, shares, own, strict=True)
        ]
    )


def l1_sums(before: Tensor, after: Tensor) -> Float[Tensor, "2 task"]:
    """Sums of magnitudes of parts [task, 1, entries], before and after entries were dropped."""
    return torch.stack([magnitudes(before), magnitudes(after)])


def _parts(
    merge: Callable[..., Tensor], options: tuple[str, ...]
) -> Callable[[Mapping[str, Any], Tensor, Mapping[str, Any], tuple[int, ...]], Parts]:
    """DARE on one tensor part by part: entry i of a mask is entry i of a stream, wherever a part begins."""

    def make(
        parameters: Mapping[str, Any], weights: Tensor, supplied: Mapping[str, Any], shape: tuple[int, ...]
    ) -> Parts:
        density, rule, keys, unit = parameters["density"], parameters["rescale"], supplied["keys"], row_length(shape)
        rest = {name: parameters[name] for name in options}

        def measure(start: int, part: Tensor) -> Tensor:
            return l1_sums(part, drop_by_lot(part, keys, density, "none", start=start))

        def after(sums: Tensor | None) -> Parts:
            factors = None if sums is None else l1_factor(*sums).unsqueeze(-1)

            def finish(start: int, part: Tensor) -> Tensor:
                return merge(drop_by_lot(part, keys, density, rule, start=start, factors=factors), weights, **rest)

            return Elementwise(finish, unit)

        return Searched(Total(measure), after, unit) if rule == "l1" else after(None)

    return make


@method(
    "dare_linear",
    title="DARE (linear)",
    paper="arXiv:2311.03099",
    family="drop",
    random=True,
    parts=_parts(merge_linearly, ("scale", "normalize")),
    check=check_sum,
    exempt=DRAWN,
)
def dare_linear(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    density: Density = 0.5,
    rescale: Rescale = "probability",
    scale: Scale = 1.0,
    normalize: bool = False,
    keys: Int[Tensor, "task batch"],
) -> Float[Tensor, "batch *shape"]:
    """Drop entries at random, rescale the rest, add the weighted task vectors.

    D = scale * sum_t w_t m_t D_t / density,  m_t ~ Bernoulli(density)

    Args:
        vectors: task vectors.
        weights: one for each expert.
        density: probability with which an entry is kept.
        rescale: divide what is kept by the probability, or restore the tensor's sum of magnitudes, or leave it.
        scale: factor of the sum.
        normalize: divide by the sum of the weights.
        keys: of the masks.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("dare_linear")(torch.ones(1, 8), density=0.5, seed=1)
        tensor([2., 0., 2., 2., 0., 2., 2., 0.])

    Reference:
        Yu et al., "Language models are super Mario", ICML 2024, arXiv:2311.03099.
    """
    kept = drop_by_lot(vectors, keys, density, rescale)
    return merge_linearly(kept, weights, scale=scale, normalize=normalize)


@method(
    "dare_ties",
    title="DARE (TIES)",
    paper="arXiv:2311.03099",
    family="drop",
    random=True,
    parts=_parts(merge_agreeing, ("scale", "normalize", "election")),
    check=check_sum,
    exempt=DRAWN,
)
def dare_ties(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    density: Density = 0.5,
    rescale: Rescale = "probability",
    election: Election = "sum",
    scale: Scale = 1.0,
    normalize: bool = True,
    keys: Int[Tensor, "task batch"],
) -> Float[Tensor, "batch *shape"]:
    """Drop entries at random, rescale the rest, then elect signs and average as TIES does.

    TIES over m_t D_t / density,  m_t ~ Bernoulli(density), with the lot in place of the trimming

    Args:
        vectors: task vectors.
        weights: one for each expert.
        density: probability with which an entry is kept.
        rescale: divide what is kept by the probability, or restore the tensor's sum of magnitudes, or leave it.
        election: elect the sign of the weighted sum, or the one that more experts have.
        scale: factor of the result.
        normalize: divide by the sum of the agreeing weights (the mean); else the sum stands.
        keys: of the masks.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("dare_ties")(torch.tensor([[3.0, -4.0], [1.0, 6.0]]), density=1)
        tensor([2., 6.])

    Reference:
        Yu et al., "Language models are super Mario", ICML 2024, arXiv:2311.03099.
    """
    kept = drop_by_lot(vectors, keys, density, rescale)
    return merge_agreeing(kept, weights, scale=scale, normalize=normalize, election=election)
