"""DARE: drop entries by lot, then merge linearly or by sign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..linalg.random import bernoulli
from ..linalg.signs import Election
from ..linalg.sparsify import Rescale, rescaled
from ..registry import method
from .arithmetic import Scale, merge_linearly
from .common import DRAWN, check_sum, per_expert
from .ties import Density, merge_agreeing


def drop_by_lot(
    vectors: Float[Tensor, "task batch *shape"],
    keys: Int[Tensor, "task batch"],
    density: float | tuple[float, ...],
    rescale: Rescale,
    start: int = 0,
) -> Float[Tensor, "task batch *shape"]:
    """DARE: keep each entry with probability `density`."""
    shares = per_expert(density, len(vectors))
    return torch.stack(
        [
            rescaled(vector, bernoulli(key, share, vector.shape[1:], start=start), share, rescale)
            for vector, key, share in zip(vectors, keys, shares, strict=True)
        ]
    )


@dataclass(frozen=True)
class DrawnParts:
    """DARE on one tensor part by part: entry i of a mask is entry i of a stream, wherever a part begins."""

    draw: Callable[[Tensor, int], Tensor]
    finish: Callable[[Tensor], Tensor]

    def stride(self) -> None:
        """Nothing has to be known beforehand."""

    def look(self, vectors: Tensor) -> None:
        """Not called."""

    def add(self, seen: None) -> None:
        """Not called."""

    def merge(self, start: int, vectors: Tensor) -> Tensor:
        """Draw for one part, and merge what is kept."""
        return self.finish(self.draw(vectors, start))


def _parts(
    merge: Callable[..., Tensor], options: tuple[str, ...]
) -> Callable[[Mapping[str, Any], Tensor, Mapping[str, Any], int], DrawnParts | None]:
    def make(
        parameters: Mapping[str, Any], weights: Tensor, supplied: Mapping[str, Any], entries: int
    ) -> DrawnParts | None:
        if parameters["rescale"] == "l1":  # a factor of the whole tensor
            return None

        def draw(part: Tensor, start: int) -> Tensor:
            return drop_by_lot(part, supplied["keys"], parameters["density"], parameters["rescale"], start)

        return DrawnParts(draw, lambda kept: merge(kept, weights, **{name: parameters[name] for name in options}))

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
