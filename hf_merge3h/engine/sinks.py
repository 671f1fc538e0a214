"""Where merged tensors are kept until the whole merge has succeeded: as weights, or as factors of an adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import RequestError
from ..linalg.compress import balance, balance_each, compress
from ..linalg.low_rank import LowRank, norms
from ..linalg.precision import all_finite
from ..models.types import TensorSpec
from .plan import Group
from .run import BaseReader, Stored


@dataclass
class WeightSink:
    """Adds merged deltas to the base's tensors and rounds to the storage dtype.

    Attributes:
        specs: of the model that will hold the result, by name on disk.
        dtype: of the result; None keeps each tensor's own.
        tensors: the result, by name on disk, each where the base's tensor lies.
    """

    specs: Mapping[str, TensorSpec]
    dtype: torch.dtype | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def store(
        self, group: Group, merged: Tensor | LowRank, read_base: BaseReader, whole: Tensor | None = None
    ) -> Stored:
        """Round base + merged, keep it, and measure what rounding lost; one tensor is multiplied out at a time."""
        errors = []
        for index, name in enumerate(group.names):
            origin, own = read_base(name), None if whole is None else whole[index]
            rounded, lost = add_and_round(name, merged[index], origin, self.dtype or self.specs[name].dtype, own)
            self.tensors[name] = rounded.to(origin.device)
            errors.append(lost)
        return Stored(torch.stack(errors))


def add_and_round(
    name: str, merged: Tensor | LowRank, origin: Tensor | None, dtype: torch.dtype, whole: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One tensor of the result in its storage dtype, and the norm of what that made of the delta (on the CPU).

    Args:
        name: of the tensor.
        merged: its merged delta; where there is no base, the tensor itself.
        origin: the base's tensor as it is stored.
        dtype: of the result.
        whole: what a method that works on weights made, before the base was taken off.

    Raises:
        RequestError: the result does not fit into its dtype.
    """
    delta = merged.dense() if isinstance(merged, LowRank) else merged
    if origin is None:
        return refuse_overflow(name, delta if whole is None else whole, dtype), torch.zeros(())
    if origin.dtype == torch.float64:  # what no expert changes keeps its bits
        delta, whole = delta.to(origin.device, torch.float64), None
    base = origin.to(delta.device, delta.dtype)
    delta = delta.reshape(base.shape)
    rounded = refuse_overflow(name, base + delta if whole is None else whole.reshape(base.shape), dtype)
    if rounded.dtype.itemsize >= delta.dtype.itemsize:  # the rounding of float32 itself does not count
        return rounded, torch.zeros(())
    return rounded, torch.linalg.vector_norm(rounded.to(delta.dtype) - base - delta).cpu().float()


def refuse_overflow(name: str, exact: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of the result in its storage dtype.

    Raises:
        RequestError: it has numbers that do not fit.
    """
    rounded = exact.to(dtype)
    if not all_finite(rounded):
        raise _overflow(name, rounded.dtype, exact)
    return rounded


@dataclass
class AdapterSink:
    """Turns merged deltas into factors of the wanted rank and dtype.

    Attributes:
        whole: names whose merged delta stays a whole tensor (modules to save).
        stacks: names of stacks of matrices, whose matrices get factors each.
        rank_of: the rank that each source's factors of a tensor have, by name; None where a source has no factors.
        rank: None, a number, or "exact" (see `merge_3h`).
        dtype: of the factors.
        deltas: the result by name, factors already rounded (of a convolution's kernel, in the flattened form
            [out, in * k]).
    """

    whole: Collection[str]
    stacks: Collection[str]
    rank_of: Callable[[str], Sequence[int | None]]
    rank: int | str | None
    dtype: torch.dtype
    deltas: dict[str, LowRank | Tensor] = field(default_factory=dict)

    def store(
        self, group: Group, merged: Tensor | LowRank, read_base: BaseReader, whole: Tensor | None = None
    ) -> Stored:
        """Cut to the rank, balance the factors, round them, and measure what both lost."""
        errors: list[Tensor] = []
        residuals: list[float] = []
        ranks: list[int | None] = []
        balanced = balance_each(merged) if isinstance(merged, LowRank) else None
        for index, name in enumerate(group.names):
            delta = merged[index] if balanced is None else balanced[index]
            if name in self.whole or delta.ndim < 2:
                exact = delta.dense() if isinstance(delta, LowRank) else delta
                rounded = exact.to(self.dtype).to(torch.float32)
                if not all_finite(rounded):
                    raise _overflow(name, self.dtype, exact)
                self.deltas[name] = rounded
                errors.append(torch.linalg.vector_norm(rounded - exact))
                residuals.append(0.0)
                ranks.append(None)
                continue
            if isinstance(delta, Tensor) and delta.ndim > 2 and name not in self.stacks:
                delta = delta.flatten(1)
            factors, residual = self._factors(delta, name)
            kept = factors.to(dtype=self.dtype)
            self.deltas[name] = kept
            errors.append(_rounding_error(factors, kept))
            residuals.append(residual)
            ranks.append(factors.rank)
        cut = torch.tensor(residuals) if any(residuals) else None
        return Stored(torch.stack([error.cpu() for error in errors]), cut, ranks)

    def _factors(self, delta: Tensor | LowRank, name: str) -> tuple[LowRank, float]:
        """Balanced factors of one delta (if factors, balanced ones), and the relative error of the cut to the rank."""
        wanted = self._rank_of(name)
        if isinstance(delta, LowRank) and (wanted is None or delta.rank <= wanted):
            return delta, 0.0
        factors, residual = compress(delta, wanted)
        size = _norms(delta)
        total = math.hypot(*size)
        lost = math.hypot(*(float(r) * s for r, s in zip(residual.flatten(), size, strict=True)))
        return balance(factors), lost / total if total else 0.0

    def _rank_of(self, name: str) -> int | None:
        """The rank to cut to: as asked, else the sum of the sources', else (dense sources) the numerical one."""
        if isinstance(self.rank, int):
            return self.rank
        ranks = self.rank_of(name)
        if self.rank == "exact" or any(rank is None for rank in ranks):
            return None
        return sum(rank or 0 for rank in ranks)


def _overflow(name: str, dtype: torch.dtype, exact: Tensor) -> RequestError:
    """The merged tensor has numbers that its storage dtype has not."""
    largest = float(exact.abs().max())
    return RequestError(
        f"the merged {name!r} has entries up to {largest:.3g} in magnitude, which do not fit into {dtype}; "
        "lower `weights` or `scale`, or choose a wider dtype"
    )


def _rounding_error(exact: LowRank, rounded: LowRank) -> Tensor:
    """Frobenius norm of the difference of two products (of all matrices of a stack together)."""
    if rounded.dtype == exact.dtype:
        return torch.zeros(())
    difference = LowRank.cat([exact, rounded.to(dtype=exact.dtype) * -1.0])
    return torch.linalg.vector_norm(difference.norm()).float()


def _norms(delta: Tensor | LowRank) -> list[float]:
    return norms(delta).flatten().tolist()
