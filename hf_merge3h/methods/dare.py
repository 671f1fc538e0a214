"""DARE: drop entries by lot, then merge linearly or by sign."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..linalg.blocks import block_of, magnitudes
from ..linalg.dropping import Rescale, drop_by_lot, l1_factor, masked_and_weighed
from ..linalg.signs import Election
from ..linalg.sparsify import row_length
from ..passes import Elementwise, Searched
from ..registry import Parts, method
from .arithmetic import Scale, merge_linearly
from .common import DRAWN, check_sum, per_expert
from .ties import Density, merge_agreeing


def _drop(
    vectors: Float[Tensor, "task batch *shape"],
    keys: Int[Tensor, "task batch"],
    density: float | tuple[float, ...],
    rescale: Rescale,
    *,
    start: int = 0,
) -> Float[Tensor, "task batch *shape"]:
    return drop_by_lot(vectors, keys, per_expert(density, len(vectors)), rescale, start=start)


class _Kept:
    """A search that draws, remembers one bit an entry, and adds up magnitudes before and after.

    Of the parts nothing is kept but rows of one array. An object for each, if only a view with its 48 bytes of
    dimensions, would lie among the large arrays that a part makes and frees, and cut up the heap: 1.4 GB at 1.1B where
    it is some hundred MB (docs/LOG.md).
    """

    def __init__(self, drop: Callable[[int, Tensor], Tensor], tasks: int, entries: int, unit: int) -> None:
        self._drop, self._tasks, self._entries = drop, tasks, entries
        self._block, self._asked = block_of(unit), False
        self._total: Tensor | None = None
        self._bits: np.ndarray
        #: The bits of all parts, one after the other, and what restores each expert's sum of magnitudes.
        self.found: tuple[np.ndarray, Tensor] | None = None

    def stride(self) -> int | None:
        """One reading of everything."""
        if self._total is not None:
            self.found = self._bits, l1_factor(*self._total)
        if self._asked:
            return None
        size = -(-min(self._block, self._entries) // 8)  # each part begins with a whole byte
        self._bits = np.empty((-(-self._entries // self._block), self._tasks, 1, size), np.uint8)
        self._asked = True
        return 1

    def look(self, start: int, vectors: Tensor) -> tuple[int, np.ndarray, Tensor]:
        """Draw for one part."""
        kept = self._drop(start, vectors)
        return start, np.packbits(kept.numpy() != 0, axis=-1), torch.stack([magnitudes(vectors), magnitudes(kept)])

    def add(self, seen: tuple[int, np.ndarray, Tensor]) -> None:
        """Keep the bits, add up the sums."""
        start, bits, sums = seen
        self._bits[start // self._block, ..., : bits.shape[-1]] = bits
        self._total = sums if self._total is None else self._total + sums


def restored_parts(
    drop: Callable[[int, Tensor], Tensor], merge: Callable[[Tensor], Tensor], tasks: int, shape: Sequence[int]
) -> Parts:
    """Parts of a method that drops entries by lot and restores each expert's sum of magnitudes.

    Args:
        drop: zeroes entries of the part that begins somewhere.
        merge: what is kept and rescaled.
        tasks: how many experts.
        shape: of the tensor.
    """
    unit = row_length(shape)
    block = block_of(unit)

    def after(found: tuple[np.ndarray, Tensor]) -> Parts:
        bits, factors = found[0], found[1].float().unsqueeze(-1)

        def finish(start: int, part: Tensor) -> Tensor:
            drawn = np.unpackbits(bits[start // block], axis=-1, count=part.shape[-1]).view(np.bool_)
            return merge(masked_and_weighed(part, torch.from_numpy(drawn), factors))

        return Elementwise(finish, unit)

    return Searched(_Kept(drop, tasks, math.prod(shape), unit), after, unit)


def _parts(
    merge: Callable[..., Tensor], options: tuple[str, ...]
) -> Callable[[Mapping[str, Any], Tensor, Mapping[str, Any], tuple[int, ...]], Parts]:
    """DARE on one tensor part by part: entry i of a mask is entry i of a stream, wherever a part begins."""

    def make(
        parameters: Mapping[str, Any], weights: Tensor, supplied: Mapping[str, Any], shape: tuple[int, ...]
    ) -> Parts:
        unit, rest = row_length(shape), {name: parameters[name] for name in options}

        def drop(rescale: Rescale, start: int, part: Tensor) -> Tensor:
            return _drop(part, supplied["keys"], parameters["density"], rescale, start=start)

        rule = parameters["rescale"]
        if rule == "l1":
            kept = partial(drop, "none")
            return restored_parts(kept, lambda part: merge(part, weights, **rest), len(weights), shape)
        return Elementwise(lambda start, part: merge(drop(rule, start, part), weights, **rest), unit)

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
    kept = _drop(vectors, keys, density, rescale)
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
    kept = _drop(vectors, keys, density, rescale)
    return merge_agreeing(kept, weights, scale=scale, normalize=normalize, election=election)
