"""Reinforced agent merging: keep what one expert alone changed, average what several did."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from ..linalg.precision import double
from ..linalg.sparsify import flat, spread
from ..registry import Range, method

Threshold = Annotated[float, Range(0)]

_THRESHOLDED = {
    "identity": "changes at or under the threshold are dropped",
    "homogeneity": "the threshold does not scale with the task vectors",
}


def _merge(
    vectors: Float[Tensor, "task batch *shape"], threshold: float, r: float, alpha: float
) -> Float[Tensor, "batch *shape"]:
    support = vectors.abs() > threshold
    holders = torch.zeros_like(vectors[0])
    for mask in support:
        holders += mask
    total = torch.zeros_like(vectors[0])
    for vector, mask in zip(vectors, support, strict=True):
        unique = mask & (holders == 1)
        n_unique, n_all = double(flat(unique).sum(-1)), double(flat(mask).sum(-1))
        overlap = ((n_all - n_unique) / n_unique.clamp_min(1)).clamp(0, alpha)
        factor = spread((overlap * r + 1.0).to(vector), vector)
        total += torch.where(unique, vector * factor, vector * mask)
    return total / holders.clamp_min(1)


@method(
    "ram",
    title="RAM",
    paper="arXiv:2601.13572",
    family="consensus",
    elementwise=True,
    weighted=False,
    exempt=_THRESHOLDED,
)
def ram(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    threshold: Threshold = 1e-5,
) -> Float[Tensor, "batch *shape"]:
    """Keep the entries that one expert alone changed, average those that several did.

    D = sum_{t in A} D_t / |A|,  A = {t : |D_t| > threshold}, entry by entry

    Args:
        vectors: task vectors.
        weights: not used: the formula names none.
        threshold: greatest change that counts as none.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("ram")(torch.tensor([[1.0, 4.0], [0.0, 2.0]]))
        tensor([1., 3.])

    Reference:
        "RAM: reinforced agent merging", arXiv:2601.13572.
    """
    return _merge(vectors, threshold, 0.0, 0.0)


@method(
    "ram_plus",
    title="RAM+",
    paper="arXiv:2601.13572",
    family="consensus",
    aliases=("ramplus_tl",),
    weighted=False,
    exempt=_THRESHOLDED,
)
def ram_plus(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    threshold: Threshold = 1e-5,
    r: Annotated[float, Range(0, high_open=True)] = 0.1,
    alpha: Annotated[float, Range(0)] = 0.2,
) -> Float[Tensor, "batch *shape"]:
    """RAM with the unique entries of an expert amplified by how much of its change it shares.

    D as RAM's, where an entry of A = {t} is (1 + r clamp(shared_t / unique_t, 0, alpha)) D_t

    shared_t and unique_t count the entries of one tensor that expert t changed, with others and alone.

    Args:
        vectors: task vectors.
        weights: not used: the formula names none.
        threshold: greatest change that counts as none.
        r: how much is amplified.
        alpha: greatest overlap that counts.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("ram_plus")(torch.tensor([[1.0, 4.0], [0.0, 2.0]]))
        tensor([1.0200, 3.0000])

    Reference:
        "RAM: reinforced agent merging", arXiv:2601.13572.
    """
    return _merge(vectors, threshold, r, alpha)
