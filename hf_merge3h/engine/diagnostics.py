"""What a merge did to each tensor, measured while it passes by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..apply import Vectors
from ..errors import RequestError
from ..linalg.low_rank import LowRank
from ..linalg.precision import double
from ..linalg.span import Combination

_CHUNK = 1 << 16  # float32 sums of this many products, then float64 over the chunks
_CACHED = 1 << 17  # entries that stay in a core's cache while they are compared
_SAMPLE = 1 << 17  # entries of a tensor on which signs are compared
_SAMPLE_ROWS = 32  # rows of a product of factors that are formed for the same purpose


def inner_products(vectors: Sequence[Tensor] | Sequence[LowRank]) -> Tensor:
    """Gram matrices of the vectors of each batch element: [batch, n, n], float64 (rounded like float32).

    Args:
        vectors: n tensors [batch, *shape], or n LowRank [batch, *stack, m, n].
    """
    *experts, merged = vectors
    if isinstance(merged, Combination) and _same(merged.span.terms, experts):
        return merged.gram()
    factors = [vector for vector in vectors if isinstance(vector, LowRank)]
    if len(factors) == len(vectors):
        return _factored_gram(factors)
    flat = torch.stack([_dense(vector).flatten(1) for vector in vectors], 1)
    body = flat.shape[-1] // _CHUNK * _CHUNK
    gram = _gram(flat[..., body:])
    if body:
        chunks = flat[..., :body].unflatten(-1, (-1, _CHUNK)).transpose(1, 2)
        gram = gram + _gram(chunks).sum(1)
    return gram


def _same(terms: Sequence[LowRank], experts: Sequence[Tensor | LowRank]) -> bool:
    return len(terms) == len(experts) and all(term is expert for term, expert in zip(terms, experts))


def _factored_gram(factors: Sequence[LowRank]) -> Tensor:
    """<B_i A_i, B_j A_j> = <B_i^T B_j, A_i A_j^T>: all pairs from one product of each side's factors."""
    left = torch.cat([factor.left for factor in factors], -1)
    right = torch.cat([factor.right for factor in factors], -2)
    entries = double(left.mT @ left) * double(right @ right.mT)
    owner = torch.repeat_interleave(
        torch.arange(len(factors)), torch.tensor([factor.rank for factor in factors]), output_size=left.shape[-1]
    )
    pick = torch.nn.functional.one_hot(owner, len(factors)).to(entries)
    return _per_batch(pick.mT @ entries @ pick)


def _per_batch(gram: Tensor) -> Tensor:
    """[batch, *stack, n, n] -> [batch, n, n]: the matrices of one tensor count together."""
    return gram.flatten(1, -3).sum(1) if gram.ndim > 3 else gram


def _gram(rows: Tensor) -> Tensor:
    return double(rows @ rows.mT)


def _dense(vector: Tensor | LowRank) -> Tensor:
    return vector.dense() if isinstance(vector, LowRank) else vector


def sign_conflict(vectors: Vectors) -> Tensor:
    """Share of the changed entries that two experts change in opposite directions: [batch], from a fixed sample."""
    if isinstance(vectors, Tensor):
        flat = vectors.flatten(2)
        step = flat.shape[-1] // _SAMPLE | 1  # odd, so that no column of a matrix is met again and again
        return _conflict(list(flat[..., ::step]))
    side = vectors[0].shape[-2]
    rows = torch.arange(0, side, max(1, side // _SAMPLE_ROWS), device=vectors[0].device)
    count = len(vectors[0].left)
    few = max(1, _CACHED // (len(rows) * vectors[0].shape[-1])) if rows.device.type == "cpu" else count
    shares = [
        _conflict([vector[at : at + few].rows(rows).flatten(1) for vector in vectors]) for at in range(0, count, few)
    ]
    return torch.cat(shares)


def _conflict(sample: Sequence[Tensor]) -> Tensor:
    up, down = sample[0].clone(), sample[0].clone()
    for entries in sample[1:]:
        torch.maximum(up, entries, out=up)
        torch.minimum(down, entries, out=down)
    up.gt_(0)  # 0 and 1, in place: counts as float32 sums, exact up to 2^24, take a fifth of the time of booleans'
    down.lt_(0)
    both = torch.linalg.vecdot(up, down)
    return both / (up.sum(-1) + down.sum(-1) - both).clamp_min(1)


def kept_rank(merged: Tensor | LowRank) -> list[int | None]:
    """Number of columns that a merged product of factors uses, for each batch element (None where it is dense)."""
    if not isinstance(merged, LowRank):
        return [None] * len(merged)
    used = merged.left.any(-2) & merged.right.any(-1)
    return used.sum(-1).flatten(1).amax(1).tolist() if used.ndim > 2 else used.sum(-1).tolist()


def noisy_rank(merged: Tensor | LowRank, noise: Tensor | None) -> list[int | None]:
    """Of the kept singular values of each batch element, how many lie at or under the storage noise (None: unknown).

    Spectral methods give U S and V^T with orthonormal columns, so the norms of the left factor's columns are the
    singular values (times what the expert's weight and `scale` make of them).
    """
    if noise is None or not isinstance(merged, LowRank):
        return [None] * len(merged.left if isinstance(merged, LowRank) else merged)
    values = torch.linalg.vector_norm(merged.left, dim=-2)
    return ((values > 0) & (values <= noise.unsqueeze(-1))).sum(-1).tolist()


def survived(size: Tensor, error: Tensor) -> Tensor:
    """Share of a merged delta that is left after rounding, 1 - error / size: all [batch]."""
    lost = error.to(size) / size.clamp_min(torch.finfo(torch.float64).tiny)
    return (1 - torch.where(size > 0, lost, torch.zeros_like(lost))).clamp(0, 1)


def refuse_non_finite(deltas: Tensor, names: Sequence[str], labels: Sequence[str]) -> None:
    """Raise a RequestError that names the expert, the tensor and the place of the first number that is not finite.

    Args:
        deltas: task vectors [task, batch, *shape].
        names: of the batch's tensors.
        labels: of the experts.
    """
    # A sum is finite only if every number is (or it overflows, which the search below then acquits): one cheap pass.
    if bool(torch.isfinite(deltas.flatten(2).sum(-1)).all()):
        return
    for label, stack in zip(labels, deltas, strict=True):
        for name, entries in zip(names, stack, strict=True):
            broken = ~torch.isfinite(entries)
            if bool(broken.any()):
                place = tuple(broken.nonzero()[0].tolist())
                value = entries[place].item()
                count = int(broken.sum())
                which = "1 entry that is" if count == 1 else f"{count} entries that are"
                raise RequestError(
                    f"{label}: tensor {name!r} has {which} not finite, the first {value} at {list(place)}; every entry "
                    "must be finite: repair this model, or give another"
                )
