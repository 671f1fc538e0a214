"""One expert and its base: NearSwap and Arcee Fusion."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from ..linalg.precision import double
from ..linalg.sparsify import flat, kth_largest, spread
from ..registry import Range, method


@method(
    "nearswap",
    title="NearSwap",
    paper="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    family="pairwise",
    elementwise=True,
    experts=(1, 1),
    weighted=False,
    exempt={
        "identity": "changes greater than t are cut to t",
        "homogeneity": "t does not scale with the task vector",
    },
)
def nearswap(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    t: Annotated[float, Range(0)] = 1e-4,
) -> Float[Tensor, "batch *shape"]:
    """Take small changes whole and of large ones no more than t.

    D = clamp(t / |D_1|, 0, 1) D_1, which is clamp(D_1, -t, t)

    Args:
        vectors: the one task vector.
        weights: not used: the formula names none.
        t: the greatest change.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("nearswap")(torch.tensor([[0.5, -2.0, 0.0]]), t=1)
        tensor([ 0.5000, -1.0000,  0.0000])

    Reference:
        Alchemonaut, https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001.
    """
    return vectors[0].clamp(-t, t)


@method(
    "arcee_fusion",
    title="Arcee Fusion",
    paper="https://github.com/arcee-ai/mergekit",
    family="pairwise",
    experts=(1, 1),
    weighted=False,
    exempt={
        "identity": "only entries of outstanding importance are taken",
        "homogeneity": "the divergence is of softmaxes, which do not scale",
    },
)
def arcee_fusion(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    base: Float[Tensor, "batch *shape"],
) -> Float[Tensor, "batch *shape"]:
    """Take the entries of an expert whose change is of outstanding importance.

    D = D_1 where I >= median(I) + 1.5 IQR(I), else 0,  I = |D_1| KL(softmax(W_1) || softmax(W_0)) row by row

    Args:
        vectors: the one task vector.
        weights: not used: the formula names none.
        base: the base's weights.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("arcee_fusion")(torch.tensor([[0.1, 0.1, 0.2, 0.1, 3.0]]), base=torch.zeros(5))
        tensor([0., 0., 0., 0., 3.])

    Reference:
        Goddard et al., "Arcee's MergeKit", EMNLP 2024, arXiv:2403.13257 (the method is in the tool, not the paper).

    Note:
        Quantiles are entries of the tensor (the lower of two), not interpolated. The divergence of rows of small
        weights is far below float32's rounding, so it is taken in float64.
    """
    delta = vectors[0]
    n = delta[0].numel()
    if n == 0:
        return delta.clone()
    if delta.ndim < 2:
        return arcee_fusion(vectors.unsqueeze(-1), weights, base=base.unsqueeze(-1)).squeeze(-1)
    old = double(base)
    log_p, log_q = (old + double(delta)).log_softmax(-1), old.log_softmax(-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1, keepdim=True).clamp_min(0)
    importance = (double(delta.abs()) * divergence).to(delta)
    rows = flat(importance)
    # The entry number i from below is the (n - i)-th largest.
    lower, median, upper = (kth_largest(rows, n - place) for place in ((n - 1) // 4, (n - 1) // 2, 3 * (n - 1) // 4))
    threshold = median + (upper - lower) * 1.5
    return torch.where(importance >= spread(threshold, importance), delta, 0.0)
