"""Carry out a plan: read a group, merge it, measure it, hand it to the sink; one group in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from huggingface_hub.utils import tqdm
from torch import Tensor

from ..apply import Vectors, merge_stack
from ..linalg.low_rank import LowRank
from ..linalg.random import mask_keys
from ..models.types import Expert
from . import diagnostics
from .measures import TensorReport
from .plan import Group, Plan
from .request import Request

#: Reads one tensor of the base by name, in its storage dtype.
BaseReader = Callable[[str], Tensor]


@dataclass(frozen=True)
class Stored:
    """What a sink made of a group: for each tensor the norm of what rounding lost, and the residual of a rank cut."""

    rounding_error: Tensor
    residual: Tensor | None = None
    rank: Sequence[int | None] | None = None


class Sink(Protocol):
    """Where merged tensors go."""

    def store(self, group: Group, merged: Tensor | LowRank, base: Tensor | None, whole: Tensor | None = None) -> Stored:
        """Keep the merged deltas of a group ([names, *shape]); nothing else changes before the run has ended.

        Where a method works on weights, `whole` is what it made of them, before the base was taken off.
        """


@dataclass(frozen=True)
class Run:
    """One run of a plan.

    Attributes:
        weights_at_hand: the base's weights may be read for every tensor (false for adapters on adapters).
        progress: show a bar.
        measure: whether to look at what the merge does; without it there are no reports.
        baseless: there is no base at all, and every method gets whole weights.
    """

    plan: Plan
    request: Request
    experts: Sequence[Expert]
    read_base: BaseReader
    sink: Sink
    weights_at_hand: bool
    progress: bool = True
    measure: bool = True
    baseless: bool = False

    def __call__(self) -> list[TensorReport]:
        """Merge everything; the reports are in the order of the plan."""
        statistics = self._prepare()
        reports: list[TensorReport] = []
        with self._bar(self.plan.numbers, "merging") as bar:
            for group in self.plan.groups:
                reports += self.merge(group, statistics)
                bar.update(group.numbers)
        return reports

    def _bar(self, total: int, what: str) -> tqdm:
        return tqdm(total=total, desc=what, unit="", unit_scale=True, disable=not self.progress, leave=False)

    def _prepare(self) -> object:
        """The method's first passes over the whole model, where it wants some."""
        method = self.request.method
        accumulator = method.prepare(self.request.parameters, len(self.experts)) if method.prepare else None
        if accumulator is None:
            return None
        with self._bar(self.plan.numbers * accumulator.passes, "measuring") as bar:
            for number in range(accumulator.passes):
                for group in self.plan.groups:
                    accumulator.observe(number, group.entry_names(), self.read(group)[0], group.spectral)
                    bar.update(group.numbers)
        return accumulator.result()

    def read(self, group: Group) -> tuple[Vectors, Tensor | None]:
        """The experts' vectors of a group, and the base's tensors if they are at hand, float32 on the device."""
        reader = _Reader(group, self.experts, self.read_base, self.request.device)
        base = reader.base_stack() if self.weights_at_hand else None
        if group.low_rank:
            return reader.factors(), base
        in_weights = self.baseless or (self.weights_at_hand and self.request.method.space == "weight")
        return reader.dense(in_weights), base

    def merge(self, group: Group, statistics: object) -> list[TensorReport]:
        """Merge one group and hand it to the sink."""
        method, device = self.request.method, self.request.device
        vectors, base = self.read(group)
        flat_base = base.flatten(0, 1) if base is not None and group.stacked else base
        origin = flat_base if method.space == "weight" and isinstance(vectors, Tensor) else None
        deltas = vectors if origin is None or isinstance(vectors, tuple) else vectors - origin
        if isinstance(deltas, Tensor):  # factors were looked through when they were read
            diagnostics.refuse_non_finite(deltas, group.entry_names(), [expert.label for expert in self.experts])
        supplied = self.supplied(group, statistics, flat_base)
        weights = torch.tensor(group.weights, dtype=torch.float32, device=device)
        merged = merge_stack(method, vectors, weights, group.parameters, supplied, spectral=group.spectral)
        whole = None
        if isinstance(merged, Tensor) and (self.baseless or origin is not None):
            whole = merged.unflatten(0, (len(group.names), group.shape[0])) if group.stacked else merged
            merged = merged if origin is None else merged - origin
        if self.baseless or not self.measure:
            shape = (len(group.names), group.shape[0] if group.stacked else 1)
            self.sink.store(group, unstack(merged, shape) if group.stacked else merged, base, whole)
            return []
        noisy = diagnostics.noisy_rank(merged, supplied["noise"] if group.spectral else None)
        return list(self._report(group, deltas, merged, base, noisy, whole))

    def supplied(self, group: Group, statistics: object, base: Tensor | None) -> dict[str, Any]:
        """What the engine supplies to a method beside the vectors (`schema.SUPPLIED`)."""
        method, names = self.request.method, group.entry_names()
        # Only whole models were rounded to their storage dtype: an adapter's change is what its factors say.
        stored = "noise" in method.needs and all(rank is None for rank in group.ranks)
        keyed = "keys" in method.needs
        return {
            "base": base,
            "names": names,
            "keys": mask_keys(self.request.seed, self.request.roles, names, self.request.device) if keyed else None,
            "noise": noise_floor(base, self._dtype_of(group)) if stored else None,
            "statistics": statistics,
        }

    def _dtype_of(self, group: Group) -> torch.dtype:
        """The storage dtype whose rounding is the noise of the deltas of a group."""
        return next(spec.dtype for expert in self.experts if (spec := expert.specs().get(group.names[0])))

    def _report(
        self,
        group: Group,
        deltas: Vectors,
        merged: Tensor | LowRank,
        base: Tensor | None,
        noisy: list[int | None],
        whole: Tensor | None,
    ) -> Iterator[TensorReport]:
        gram = diagnostics.inner_products([*deltas, merged])
        conflict = diagnostics.sign_conflict(deltas)
        rank = diagnostics.kept_rank(merged)
        if group.stacked:  # one row a tensor: sum over its matrices
            count, each = len(group.names), group.shape[0]
            gram, conflict = gram.unflatten(0, (count, each)).sum(1), conflict.unflatten(0, (count, each)).mean(1)
            merged = unstack(merged, (count, each))
            noisy = [_greatest(noisy[start : start + each]) for start in range(0, count * each, each)]
            rank = [_greatest(rank[start : start + each]) for start in range(0, count * each, each)]
        stored = self.sink.store(group, merged, base, whole)
        survived = diagnostics.survived(gram[:, -1, -1].clamp_min(0).sqrt(), stored.rounding_error)
        ranks = stored.rank if stored.rank is not None else rank
        for index, name in enumerate(group.names):
            yield TensorReport(
                name=name,
                shape=group.shape,
                gram=tuple(tuple(row) for row in gram[index].tolist()),
                sign_conflict=float(conflict[index]) if len(self.experts) > 1 else None,
                kept_rank=ranks[index],
                noisy_rank=noisy[index],
                survived=float(survived[index]),
                residual=None if stored.residual is None else float(stored.residual[index]),
            )


@dataclass
class _Reader:
    """Reads the tensors of one group; the base's at most once each."""

    group: Group
    experts: Sequence[Expert]
    read_base: BaseReader
    device: torch.device

    def __post_init__(self) -> None:
        self._base: dict[str, Tensor] = {}

    def base(self, name: str) -> Tensor:
        """One tensor of the base, float32 on the device."""
        if name not in self._base:
            self._base[name] = self.read_base(name).to(self.device, torch.float32)
        return self._base[name]

    def base_stack(self) -> Tensor:
        """[names, *shape]."""
        return torch.stack([self.base(name) for name in self.group.names])

    def factors(self) -> tuple[LowRank, ...]:
        """One LowRank [batch, m, n] for each expert."""
        return tuple(self._factors_of(expert) for expert in self.experts)

    def _factors_of(self, expert: Expert) -> LowRank:
        terms = []
        for name in self.group.names:
            delta = expert.delta(name, lambda name=name: self.base(name))  # type: ignore[misc]
            if delta is None:
                delta = LowRank.zeros(self.group.shape)
            assert isinstance(delta, LowRank)
            terms.append(delta.to(self.device, torch.float32))
        stack = LowRank.stack(terms)
        return stack.flatten() if self.group.stacked else stack

    def dense(self, in_weights: bool) -> Tensor:
        """[task, batch, *shape], task vectors or weights."""
        rows = []
        for expert in self.experts:
            tensors = [self._dense_of(expert, name, in_weights) for name in self.group.names]
            rows.append(torch.stack(tensors))
        stack = torch.stack(rows)
        return stack.flatten(1, 2) if self.group.stacked else stack

    def _dense_of(self, expert: Expert, name: str, in_weights: bool) -> Tensor:
        def read() -> Tensor:
            return self.base(name)

        if in_weights:
            return expert.weight(name, read).to(self.device, torch.float32)
        delta = expert.delta(name, read)
        if delta is None:
            return torch.zeros(self.group.shape, device=self.device)
        return _dense(delta.to(self.device, torch.float32))


def unstack(merged: Tensor | LowRank, shape: tuple[int, int]) -> Tensor | LowRank:
    """[names * matrices, m, n] -> [names, matrices, m, n]."""
    return merged.unflatten(shape) if isinstance(merged, LowRank) else merged.unflatten(0, shape)


def _greatest(ranks: Sequence[int | None]) -> int | None:
    return max((rank for rank in ranks if rank is not None), default=None)


def _dense(delta: Tensor | LowRank) -> Tensor:
    return delta.dense() if isinstance(delta, LowRank) else delta


def noise_floor(base: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Singular values that storage rounding alone gives a delta, float32 [batch].

    Rounding to a dtype with relative spacing eps moves a weight by up to eps/2 of its size, a uniform error of
    standard deviation eps |w| / sqrt(12); the largest singular value of such an [m, n] matrix is about
    sigma (sqrt m + sqrt n) (Bai and Yin, 1988). None where the base's weights are not read, or no matrix.
    """
    if base is None or base.ndim != 3:
        return None
    rows, columns = base.shape[1:]
    spread = base.square().mean((1, 2)).sqrt() * torch.finfo(dtype).eps / 12**0.5
    return spread * (rows**0.5 + columns**0.5)
