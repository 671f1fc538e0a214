"""Figures of a merge, tensor by tensor and block by block: plain data."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorReport:
    """One tensor.

    Attributes:
        name, shape: as on disk.
        gram: inner products of the task vectors D_1 .. D_T and, last, of the merged delta: [T + 1, T + 1].
        sign_conflict: share of the changed entries that two experts change in opposite directions (None: one expert).
        kept_rank: rank of the merged delta, where it is known to be low.
        survived: share of the merged delta that is left after rounding to the storage dtype.
        residual: relative error of cutting the merged delta to the adapter's rank (None: not cut).
        noisy_rank: how many of the kept singular values storage rounding alone would make (None: not known).
    """

    name: str
    shape: tuple[int, ...]
    gram: tuple[tuple[float, ...], ...]
    sign_conflict: float | None
    kept_rank: int | None
    survived: float
    residual: float | None = None
    noisy_rank: int | None = None

    @property
    def numbers(self) -> int:
        """Entries of the tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class BlockReport:
    """Tensors of one block of the model (a layer, the embeddings), as if they were one long vector.

    Attributes:
        name: what their names share.
        tensors, numbers: how many tensors and entries.
        norms: Frobenius norm of each expert's task vector.
        merged_norm: of the merged delta.
        cosines: [T, T] between the task vectors; NaN where one is zero.
        merged_cosines: [T] of each task vector with the merged delta.
        sign_conflict: mean over the entries.
        kept_rank: mean over the tensors whose rank is known.
        survived: 1 - |lost to rounding| / |merged delta|.
        residual: relative error of the rank cut.
    """

    name: str
    tensors: int
    numbers: int
    norms: tuple[float, ...]
    merged_norm: float
    cosines: tuple[tuple[float, ...], ...]
    merged_cosines: tuple[float, ...]
    sign_conflict: float | None
    kept_rank: float | None
    survived: float
    residual: float | None


def blocks_of(tensors: Sequence[TensorReport]) -> tuple[BlockReport, ...]:
    """The tensors' reports block by block, in natural order (layer 2 before layer 10)."""
    by_block: dict[str, list[TensorReport]] = {}
    for tensor in tensors:
        by_block.setdefault(block_of(tensor.name), []).append(tensor)
    return tuple(summarise(name, by_block[name]) for name in sorted(by_block, key=natural))


def block_of(name: str) -> str:
    """The block that a tensor belongs to: its name up to the first number, or without its last two parts.

    >>> block_of("model.layers.3.self_attn.q_proj.weight"), block_of("model.embed_tokens.weight"), block_of("weight")
    ('model.layers.3', 'model.embed_tokens', 'weight')
    """
    found = re.match(r"(.*?\.)?\d+(?=\.|$)", name)
    if found:
        return found.group(0)
    head, dot, _ = name.rpartition(".")
    return head if dot else name


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that puts layer 2 before layer 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def summarise(name: str, tensors: Sequence[TensorReport]) -> BlockReport:
    """Several tensors as one long vector: Gram matrices add up, rounding errors and residuals add as squares."""
    n = len(tensors[0].gram)
    gram = [[math.fsum(tensor.gram[i][j] for tensor in tensors) for j in range(n)] for i in range(n)]
    norms = [math.sqrt(max(0.0, gram[i][i])) for i in range(n)]
    cosines = [[_cosine(gram[i][j], norms[i] * norms[j]) for j in range(n)] for i in range(n)]
    numbers = sum(tensor.numbers for tensor in tensors)
    conflicts = [(tensor.sign_conflict, tensor.numbers) for tensor in tensors if tensor.sign_conflict is not None]
    ranks = [tensor.kept_rank for tensor in tensors if tensor.kept_rank is not None]
    residuals = [(tensor.residual or 0.0, tensor) for tensor in tensors]
    return BlockReport(
        name=name,
        tensors=len(tensors),
        numbers=numbers,
        norms=tuple(norms[:-1]),
        merged_norm=norms[-1],
        cosines=tuple(tuple(row[:-1]) for row in cosines[:-1]),
        merged_cosines=tuple(cosines[-1][:-1]),
        sign_conflict=_mean(conflicts),
        kept_rank=sum(ranks) / len(ranks) if ranks else None,
        survived=1 - _relative(((1 - tensor.survived, tensor) for tensor in tensors), norms[-1]),
        residual=_relative(residuals, norms[-1]) if any(t.residual is not None for t in tensors) else None,
    )


def _cosine(inner: float, size: float) -> float:
    return max(-1.0, min(1.0, inner / size)) if size else math.nan


def _mean(weighted: Sequence[tuple[float, int]]) -> float | None:
    total = sum(size for _, size in weighted)
    return sum(value * size for value, size in weighted) / total if total else None


def _relative(losses: Iterable[tuple[float, TensorReport]], size: float) -> float:
    """The norm of all losses, each relative to its own tensor's merged delta, relative to the whole's."""
    squares = math.fsum(loss * loss * max(0.0, tensor.gram[-1][-1]) for loss, tensor in losses)
    return math.sqrt(squares) / size if size else 0.0
