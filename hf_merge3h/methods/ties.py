"""TIES-Merging: trim, elect a sign, average what agrees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..linalg import native
from ..linalg.dropping import restored
from ..linalg.select import StreamedRanks
from ..linalg.signs import Election, agreeing_sum, elect, weigh
from ..linalg.sparsify import (
    at_least,
    below,
    bin_of_rank,
    count_of,
    from_bits,
    greater_each,
    keep_largest,
    magnitude_histogram,
    row_length,
)
from ..linalg.weighted import in_blocks
from ..passes import Elementwise, Searched
from ..registry import Accumulator, Parts, PerExpert, Range, method
from .arithmetic import Scale
from .common import L1, check_sum, per_expert, trimmed_parts

Density = Annotated[float | tuple[float, ...], Range(0, 1, low_open=True), PerExpert]


def merge_agreeing(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    scale: float,
    normalize: bool,
    election: Election,
    overwrite: bool = False,
) -> Float[Tensor, "batch *shape"]:
    """TIES after the trimming: elect a sign for each entry, average what agrees, scale.

    With `overwrite` the vectors may be used as scratch.
    """
    if native.takes(vectors, weights):
        return native.agree(vectors, weights, weights, election, normalize=normalize, scale=scale)

    def merge(part: Tensor) -> Tensor:
        terms = part.mul_(weights.reshape(-1, *[1] * (part.ndim - 1))) if overwrite else weigh(part, weights)
        total = agreeing_sum(terms, weights, elect(terms, election), normalize=normalize)
        return total if scale == 1 else total * scale

    return in_blocks(merge, vectors)


def trim(
    vectors: Float[Tensor, "task batch *shape"],
    density: float | tuple[float, ...],
    thresholds: tuple[float, ...] | None,
) -> Float[Tensor, "task batch *shape"]:
    """Keep each expert's largest entries: a share of each tensor, or those that reach its whole-model threshold."""
    if thresholds is None:
        return torch.stack(
            [keep_largest(vector, share) for vector, share in zip(vectors, per_expert(density, len(vectors)))]
        )
    return torch.stack(
        [at_least(vector, vector.new_full((len(vector),), bound)) for vector, bound in zip(vectors, thresholds)]
    )


class ModelThresholds:
    """Each expert's k-th largest magnitude over the whole model, exact, from two readings.

    The first counts the upper halves of the magnitudes' bit patterns, the second the lower halves in the bin where the
    k-th largest lies (see `sparsify.kth_largest`). 512 KiB an expert, whatever the size of the model.
    """

    passes = 2

    def __init__(self, density: tuple[float, ...]) -> None:
        self._density = density
        self._n = 0
        self._counts: list[Tensor | int] = [0] * len(density)
        self._bins: list[tuple[Tensor, Tensor]] = []

    def observe(self, number: int, names: tuple[str, ...], deltas: Any, matrix: bool) -> None:
        """Count one group of tensors."""
        if number == 1 and not self._bins:
            self._close_first()
        for expert, delta in enumerate(deltas):
            dense = delta if isinstance(delta, Tensor) else delta.dense()
            row = dense.float().reshape(1, -1)
            upper = self._bins[expert][0].to(row.device) if number else None
            self._counts[expert] = self._counts[expert] + magnitude_histogram(row, upper).cpu()
            if number == 0 and expert == 0:
                self._n += row.numel()

    def _close_first(self) -> None:
        ranks = [torch.tensor([count_of(share, self._n)]) for share in self._density]
        self._bins = [bin_of_rank(counts, rank) for counts, rank in zip(self._counts, ranks)]  # type: ignore[arg-type]
        self._counts = [0] * len(self._density)

    def result(self) -> tuple[float, ...] | None:
        """One threshold for each expert; None for a model without entries."""
        if not self._n:
            return None
        found = []
        for (upper, rank), counts in zip(self._bins, self._counts, strict=True):
            lower, _ = bin_of_rank(counts, rank)  # type: ignore[arg-type]
            found.append(from_bits(upper, lower).item())
        return tuple(found)


def prepare_thresholds(parameters: Mapping[str, Any], n_experts: int) -> Accumulator | None:
    """The first passes that `trim_scope="model"` needs."""
    if parameters["trim_scope"] == "tensor":
        return None
    return ModelThresholds(per_expert(parameters["density"], n_experts))


def _parts(
    parameters: Mapping[str, Any], weights: Tensor, supplied: Mapping[str, Any], shape: tuple[int, ...]
) -> Parts:
    """TIES on one tensor part by part, with the thresholds of the whole tensor."""
    rest = {name: parameters[name] for name in ("scale", "normalize", "election")}
    unit = row_length(shape) if parameters["rescale"] == "l1" else 1

    def after(thresholds: Sequence[float] | None) -> Parts:
        if thresholds is None:
            return Elementwise(lambda start, part: merge_agreeing(part, weights, **rest), unit)
        bounds = [below(threshold) for threshold in thresholds]
        return trimmed_parts(
            lambda part: greater_each(part, bounds),
            lambda trimmed: merge_agreeing(trimmed, weights, overwrite=True, **rest),
            parameters["rescale"],
            unit,
        )

    density, n = per_expert(parameters["density"], len(weights)), math.prod(shape)
    if supplied.get("statistics") is not None or min(density) >= 1:
        return after(supplied.get("statistics"))
    search = StreamedRanks([(count_of(share, n),) for share in density], n)
    return Searched(search, lambda found: after([row[0] for row in found]), unit)


@method(
    "ties",
    title="TIES-Merging",
    paper="arXiv:2306.01708",
    family="sign",
    prepare=prepare_thresholds,
    parts=_parts,
    check=check_sum,
    exempt={"identity": "small entries are trimmed; it holds at density 1"},
)
def ties(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    density: Density = 0.2,
    trim_scope: Literal["tensor", "model"] = "tensor",
    rescale: L1 = "none",
    election: Election = "sum",
    scale: Scale = 1.0,
    normalize: bool = True,
    statistics: tuple[float, ...] | None = None,
) -> Float[Tensor, "batch *shape"]:
    """Trim small entries, elect a sign for each entry, average the entries that agree.

    D = scale * sum_{t in A} w_t D_t / sum_{t in A} w_t,  A = {t : sign(w_t D_t) = sign(sum_s w_s D_s)}, D trimmed

    Args:
        vectors: task vectors.
        weights: one for each expert.
        density: share of the entries, by magnitude, that each expert keeps.
        trim_scope: whether the share is of each tensor or of the whole model.
        rescale: restore each trimmed tensor's sum of magnitudes, expert by expert, or leave it.
        election: elect the sign of the weighted sum, or the one that more experts have.
        scale: factor of the result.
        normalize: divide by the sum of the agreeing weights (the mean); else the sum stands.
        statistics: whole-model thresholds of `trim_scope="model"`.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("ties")(torch.tensor([[3.0, 0.1, -4.0], [1.0, 0.2, 6.0]]), density=0.7)
        tensor([2., 0., 6.])

    Reference:
        Yadav et al., "TIES-Merging", NeurIPS 2023, arXiv:2306.01708.

    Note:
        The paper trims over the whole model: that is `trim_scope="model"`, and costs two more readings. An elected sum
        of 0 counts as +. A share is rounded down, but one entry is always kept; entries as large as the last one kept
        are kept too. The paper has no weights; with a negative one use `normalize=False`.
    """
    trimmed = trim(vectors, density, statistics)
    if rescale == "l1":
        trimmed = restored(vectors, trimmed)
    return merge_agreeing(trimmed, weights, scale=scale, normalize=normalize, election=election)
