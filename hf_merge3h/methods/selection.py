"""Entries chosen by comparing the experts: SCE by their variance, MagMax by their magnitude."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..linalg import native
from ..linalg.blocks import over_blocks, squares
from ..linalg.precision import double
from ..linalg.select import StreamedRanks
from ..linalg.signs import agreeing_sum, elect, weigh
from ..linalg.sparsify import at_least, flat, kth_largest
from ..linalg.weighted import in_blocks, in_order
from ..passes import Elementwise, Searched, Total
from ..registry import Parts, Range, method
from .arithmetic import Scale


def _variance(vectors: Float[Tensor, "task batch *shape"]) -> Float[Tensor, "batch *shape"]:
    """T times the variance of each entry over the experts."""
    if native.takes(vectors):
        return native.variances(vectors)
    first, others = vectors[0], vectors[1:]
    if not len(others):
        return torch.zeros_like(first)
    shifted = others - first  # so that equal entries vary by exactly nothing, not by the rounding of their mean
    mean = in_order(shifted) * (1.0 / len(vectors))
    total = mean.square()  # of the first, whose distance to itself is 0
    for square in shifted.sub_(mean).square_().unbind():
        total += square
    return total


def _chosen(vectors: Float[Tensor, "task batch *shape"], bound: Tensor | None) -> Float[Tensor, "task batch *shape"]:
    """The entries whose variance reaches the bound and is not zero; zeros elsewhere."""
    return vectors if bound is None else vectors * at_least(_variance(vectors), bound).sign_()


def _rank(varying: Int[Tensor, "*batch"], share: float) -> Int[Tensor, "*batch"]:
    """How many entries are selected of those with any variance."""
    return (varying * share).long().clamp_min(1)


def _bound(vectors: Float[Tensor, "task batch *shape"], share: float) -> Float[Tensor, "batch"] | None:
    """The least variance of the `share` of the entries, those of greatest variance first; None where all are taken."""
    if share >= 1 or vectors[0].numel() == 0:
        return None
    rows = flat(_variance(vectors))
    return kth_largest(rows, _rank((rows > 0).sum(-1), share))


def _factors(means: Float[Tensor, "task batch"], equal_below: float) -> Float[Tensor, "task batch"]:
    """Each expert's share of the mean squares."""
    total = in_order(means)
    equal = (total <= 0) | (total < equal_below)
    return torch.where(equal, 1.0 / len(means), means / torch.where(equal, 1.0, total)).float()


def _erase(
    selected: Float[Tensor, "task batch *shape"], factors: Float[Tensor, "task batch"]
) -> Float[Tensor, "batch *shape"]:
    """The weighted mean of what has the elected sign."""
    if factors.shape[1] == 1 and native.takes(selected, factors):
        return native.agree(selected, torch.ones(len(factors)), factors[:, 0], "sum", normalize=True)
    return agreeing_sum(weigh(selected, factors), factors, elect(selected, "sum"), normalize=True)


def _sce_parts(
    parameters: Mapping[str, Any], weights: Tensor, supplied: Mapping[str, Any], shape: tuple[int, ...]
) -> Parts:
    """SCE part by part: count what varies, find the bound, weigh the experts, merge."""
    n, share = math.prod(shape), parameters["select_topk"]

    def weigh_up(bound: Tensor | None) -> Parts:
        def after(sums: Tensor) -> Parts:
            factors = _factors(sums.unsqueeze(-1) / n, parameters["equal_below"])
            return Elementwise(lambda start, part: _erase(_chosen(part, bound), factors))

        return Searched(Total(lambda start, part: squares(_chosen(part, bound))), after)

    if share >= 1:
        return weigh_up(None)

    def rank_of(varying: int) -> int:
        return int(_rank(torch.tensor(varying), share))

    return Searched(StreamedRanks(rank_of, n, _variance), lambda found: weigh_up(torch.tensor(found[0])))


@method(
    "sce",
    title="SCE",
    paper="arXiv:2408.07990",
    family="sign",
    parts=_sce_parts,
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
    selected = _chosen(vectors, _bound(vectors, select_topk))
    n = max(1, vectors[0, 0].numel())
    if vectors.device.type == "cpu" and vectors.dtype == torch.float32:
        sums = over_blocks(squares, selected)
    else:
        sums = torch.stack([double(flat(vector)).square().sum(-1) for vector in selected])
    factors = _factors(sums / n, equal_below).to(vectors)
    return in_blocks(lambda part: _erase(part, factors), selected)


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
