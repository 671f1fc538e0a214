"""Entries chosen by comparing the experts: SCE by their variance, MagMax by their magnitude."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from ..linalg.precision import double
from ..linalg.signs import agreeing_sum, elect, weigh
from ..linalg.sparsify import at_least, flat, kth_largest
from ..linalg.weighted import in_order
from ..registry import Range, method
from .arithmetic import Scale


def _select(vectors: Float[Tensor, "task batch *shape"], share: float) -> Float[Tensor, "task batch *shape"]:
    """Keep the `share` of the entries on which the experts differ at all, those of greatest variance first."""
    if share >= 1 or vectors[0].numel() == 0:
        return vectors
    shifted = vectors - vectors[0]  # so that equal entries vary by exactly nothing, not by the rounding of their mean
    variance = in_order((shifted - in_order(shifted) * (1.0 / len(vectors))).square())
    rows = flat(variance)
    count = ((rows > 0).sum(-1) * share).long().clamp_min(1)
    return vectors * ((at_least(variance, kth_largest(rows, count))) > 0)


@method(
    "sce",
    title="SCE",
    paper="arXiv:2408.07990",
    family="sign",
    weighted=False,
)
def sce(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    select_topk: Annotated[float, Range(0, 1, low_open=True)] = 1.0,
    equal_below: Annotated[float, Range(0)] = 0.0,
) -> Float[Tensor, "batch *shape"]:
    """Select the entries that vary most, calculate weights from what is left, erase minority signs.

    D = sum_{t in A} a_t D_t / sum_{t in A} a_t,  a_t = mean D_t^2 / sum_s mean D_s^2,
    A = {t : sign(D_t) = sign(sum_s D_s)}, over the selected entries

    Args:
        vectors: task vectors.
        weights: not used: the method makes its own.
        select_topk: share of the entries with any variance over the experts that is selected.
        equal_below: where the mean squares add up to less, all experts weigh the same.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("sce")(torch.tensor([[1.0, 1.0], [-3.0, 2.0]]))
        tensor([-3.0000,  1.8667])

    Reference:
        Wan et al., "FuseChat: knowledge fusion of chat models", arXiv:2408.07990.

    Note:
        One weight a tensor and expert. `equal_below` is 0 here and 1e-6 in mergekit, where task vectors of a root mean
        square under 0.001 are thus weighed equally.
    """
    selected = _select(vectors, select_topk)
    squares = torch.stack([double(flat(vector)).square().mean(-1) for vector in selected])
    total = in_order(squares)
    equal = (total <= 0) | (total < equal_below)
    factors = torch.where(equal, 1.0 / len(vectors), squares / torch.where(equal, 1.0, total)).to(vectors)
    return agreeing_sum(weigh(selected, factors), factors, elect(selected, "sum"), normalize=True)


@method(
    "magmax",
    title="MagMax",
    paper="arXiv:2407.06322",
    family="sign",
    elementwise=True,
    weighted=False,
)
def magmax(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    scale: Scale = 1.0,
) -> Float[Tensor, "batch *shape"]:
    """Take each entry from the expert that changed it most.

    D = scale * D_t with t = argmax_s |D_s|, entry by entry

    Args:
        vectors: task vectors.
        weights: not used: the formula names none.
        scale: factor of the result.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("magmax")(torch.tensor([[1.0, -5.0], [-3.0, 2.0]]))
        tensor([-3., -5.])

    Reference:
        Marczak et al., "MagMax: leveraging model merging for seamless continual learning", ECCV 2024,
        arXiv:2407.06322.

    Note:
        Of two changes of the same size and opposite signs the positive one is taken, whatever the experts' order.
    """
    best = vectors[0]
    for vector in vectors[1:]:
        size, record = vector.abs(), best.abs()
        best = torch.where((size > record) | ((size == record) & (vector > best)), vector, best)
    return best * scale
