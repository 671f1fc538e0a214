"""Where merged tensors are kept until the whole merge has succeeded: as weights, or as factors of an adapter."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..linalg.compress import balance, compress
from ..linalg.low_rank import LowRank
from ..models.types import TensorSpec
from .plan import Group
from .run import Stored


@dataclass
class WeightSink:
    """Adds merged deltas to the base's tensors and rounds to the storage dtype.

    Attributes:
        specs: of the model that will hold the result, by name on disk.
        dtype: of the result; None keeps each tensor's own.
        tensors: the result, by name on disk, on the device of the computation.
    """

    specs: Mapping[str, TensorSpec]
    dtype: torch.dtype | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def store(self, group: Group, merged: Tensor | LowRank, base: Tensor | None, whole: Tensor | None = None) -> Stored:
        """Round base + merged, keep it, and measure what rounding lost."""
        assert base is not None
        delta = merged.dense() if isinstance(merged, LowRank) else merged
        exact = base + delta if whole is None else whole
        errors = []
        for name, row, origin, wanted in zip(group.names, exact, base, delta, strict=True):
            rounded = row.to(self.dtype or self.specs[name].dtype)
            self.tensors[name] = rounded
            # float32 cannot tell base + delta from its own rounding: the loss is that of the storage dtype
            lost = (rounded.float() - origin - wanted) if rounded.dtype != torch.float32 else torch.zeros(())
            errors.append(torch.linalg.vector_norm(lost.float()))
        return Stored(torch.stack([error.to(delta.device) for error in errors]))


@dataclass
class AdapterSink:
    """Turns merged deltas into factors of the wanted rank and dtype.

    Attributes:
        full: names whose merged delta stays a whole tensor (modules to save, biases).
        rank: None, a number, or "exact" (see `merge_3h`).
        dtype: of the factors.
        deltas: the result by name, factors already rounded.
    """

    full: Collection[str]
    rank: int | str | None
    dtype: torch.dtype
    deltas: dict[str, LowRank | Tensor] = field(default_factory=dict)

    def store(self, group: Group, merged: Tensor | LowRank, base: Tensor | None, whole: Tensor | None = None) -> Stored:
        """Cut to the rank, balance the factors, round them, and measure what both lost."""
        errors: list[Tensor] = []
        residuals: list[float] = []
        ranks: list[int | None] = []
        for index, name in enumerate(group.names):
            delta = merged[index]
            if name in self.full or delta.ndim not in (2, 3):
                whole = delta.dense() if isinstance(delta, LowRank) else delta
                rounded = whole.to(self.dtype).to(torch.float32)
                self.deltas[name] = rounded
                errors.append(torch.linalg.vector_norm(rounded - whole))
                residuals.append(0.0)
                ranks.append(None)
                continue
            factors, residual = self._factors(delta, group)
            kept = factors.to(dtype=self.dtype)
            self.deltas[name] = kept
            errors.append(_rounding_error(factors, kept))
            residuals.append(residual)
            ranks.append(factors.rank)
        cut = torch.tensor(residuals) if any(residuals) else None
        return Stored(torch.stack([error.cpu() for error in errors]), cut, ranks)

    def _factors(self, delta: Tensor | LowRank, group: Group) -> tuple[LowRank, float]:
        """Balanced factors of one delta, and the relative error of the cut to the wanted rank."""
        if isinstance(delta, LowRank) and (not isinstance(self.rank, int) or delta.rank <= self.rank):
            return balance(delta), 0.0
        factors, residual = compress(delta, self._rank_of(group))
        size = _norms(delta)
        total = math.hypot(*size)
        lost = math.hypot(*(float(r) * s for r, s in zip(residual.flatten(), size, strict=True)))
        return balance(factors), lost / total if total else 0.0

    def _rank_of(self, group: Group) -> int | None:
        """The rank to cut to: as asked, else the sum of the sources', else (dense sources) the numerical one."""
        if isinstance(self.rank, int):
            return self.rank
        if self.rank == "exact" or any(rank is None for rank in group.ranks):
            return None
        return sum(rank or 0 for rank in group.ranks)


def _rounding_error(exact: LowRank, rounded: LowRank) -> Tensor:
    """Frobenius norm of the difference of two products (of all matrices of a stack together)."""
    if rounded.dtype == exact.dtype:
        return torch.zeros(())
    difference = LowRank.cat([exact, rounded.to(dtype=exact.dtype) * -1.0])
    return torch.linalg.vector_norm(difference.norm()).float()


def _norms(delta: Tensor | LowRank) -> list[float]:
    norms = delta.norm() if isinstance(delta, LowRank) else torch.linalg.matrix_norm(delta)
    return norms.double().flatten().tolist()
