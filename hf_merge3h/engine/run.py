"""Carry out a plan: read a group, merge it, measure it, hand it to the sink; one group in memory at a time."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from huggingface_hub.utils import tqdm
from torch import Tensor

from ..apply import Vectors, merge_stack
from ..linalg import native
from ..linalg.low_rank import LowRank
from ..linalg.parallel import one_after_another
from ..linalg.random import mask_keys
from ..models.types import Expert
from . import diagnostics
from .measures import TensorReport
from .plan import Group, Plan
from .request import Request
from .stream_plan import Progress, Tell

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

    def store(
        self, group: Group, merged: Tensor | LowRank, read_base: BaseReader, whole: Tensor | None = None
    ) -> Stored:
        """Keep the merged deltas of a group ([names, *shape]); nothing else changes before the run has ended.

        Where a method works on weights, `whole` is what it made of them, before the base was taken off.
        """


@dataclass(frozen=True)
class Run:
    """One run of a plan.

    Attributes:
        read_base: of one tensor, by name.
        base_label: what an error calls the base.
        weights_at_hand: the base's weights may be read for every tensor (false for adapters on adapters).
        name_on_disk: by which masks are drawn, where the plan's names are others.
        progress: show a bar, or call a function after each group.
        measure: whether to look at what the merge does; without it there are no reports.
        baseless: there is no base at all, and every method gets whole weights.
    """

    plan: Plan
    request: Request
    experts: Sequence[Expert]
    read_base: BaseReader
    base_label: str
    sink: Sink
    weights_at_hand: bool
    progress: bool | Tell = True
    name_on_disk: Callable[[str], str] = str
    measure: bool = True
    baseless: bool = False

    def __call__(self) -> list[TensorReport]:
        """Merge everything; the reports are in the order of the plan."""
        native.load(self.plan.numbers)
        statistics = self._prepare()
        reports: list[TensorReport] = []
        start, done = time.perf_counter(), 0
        with self._bar(self.plan.numbers, "merging") as bar:
            for group, found in zip(self.plan.groups, self._merged(statistics), strict=True):
                reports += found
                bar.update(group.numbers)
                done += group.numbers
                if callable(self.progress):
                    self.progress(Progress(done, self.plan.numbers, time.perf_counter() - start))
        return reports

    def _merged(self, statistics: object) -> Iterator[list[TensorReport]]:
        """The reports of each group, in order.

        Groups of factors are many small steps, which a core does faster than two: there each core takes a group.
        """
        for small, groups in itertools.groupby(self.plan.groups, self._is_small):
            jobs = [functools.partial(self.merge, group, statistics) for group in groups]
            yield from one_after_another(jobs) if small else (job() for job in jobs)

    def _is_small(self, group: Group) -> bool:
        return group.low_rank and not self.weights_at_hand and self.request.device.type == "cpu"

    def _bar(self, total: int, what: str) -> tqdm:
        return tqdm(total=total, desc=what, unit="", unit_scale=True, disable=self.progress is not True, leave=False)

    def _prepare(self) -> object:
        """The method's first passes over the whole model, where it wants some."""
        method = self.request.method
        accumulator = method.prepare(self.request.parameters, len(self.experts)) if method.prepare else None
        if accumulator is None:
            return None
        with self._bar(self.plan.numbers * accumulator.passes, "measuring") as bar:
            for number in range(accumulator.passes):
                for group in self.plan.groups:
                    if group.spectral or not method.matrix_only:  # what is averaged needs no measuring
                        accumulator.observe(number, group.entry_names(), self.read(group), group.spectral)
                    bar.update(group.numbers)
        return accumulator.result()

    def read(self, group: Group) -> Vectors:
        """What the method works on: factors, task vectors or weights, float32 on the device."""
        return self._vectors(_Reader(group, self.experts, self.read_base, self.request.device))

    def _vectors(self, reader: _Reader) -> Vectors:
        if reader.group.low_rank:
            return reader.factors()
        return reader.dense(self.baseless or (self.weights_at_hand and self.request.method.space == "weight"))

    def merge(self, group: Group, statistics: object) -> list[TensorReport]:
        """Merge one group and hand it to the sink."""
        method, device = self.request.method, self.request.device
        reader = _Reader(group, self.experts, self.read_base, device)
        base = reader.base_stack() if self.weights_at_hand else None
        if base is not None:
            diagnostics.refuse_non_finite(base.unsqueeze(0), group.names, [self.base_label])
        vectors = self._vectors(reader)
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
            self.sink.store(group, unstack(merged, shape) if group.stacked else merged, self.read_base, whole)
            return []
        noisy = diagnostics.noisy_rank(merged, supplied["noise"] if group.spectral else None)
        return list(self._report(group, deltas, merged, noisy, whole))

    def supplied(self, group: Group, statistics: object, base: Tensor | None) -> dict[str, Any]:
        """What the engine supplies to a method beside the vectors (`schema.SUPPLIED`)."""
        needs = self.request.method.needs
        return {
            "base": base,
            "names": group.entry_names(),
            "keys": self._keys(group) if "keys" in needs else None,
            "noise": noise_floor(base, group.spacing) if "noise" in needs else None,
            "statistics": statistics,
        }

    def _keys(self, group: Group) -> Tensor:
        named = replace(group, names=tuple(self.name_on_disk(name) for name in group.names))
        return mask_keys(self.request.seed, self.request.roles, named.entry_names(), self.request.device)

    def _report(
        self, group: Group, deltas: Vectors, merged: Tensor | LowRank, noisy: list[int | None], whole: Tensor | None
    ) -> Iterator[TensorReport]:
        gram = diagnostics.inner_products([*deltas, merged])
        conflict = diagnostics.sign_conflict(deltas)
        if group.stacked:  # one row a tensor: sum over its matrices
            count, each = len(group.names), group.shape[0]
            gram, conflict = gram.unflatten(0, (count, each)).sum(1), conflict.unflatten(0, (count, each)).mean(1)
            merged = unstack(merged, (count, each))
            noisy = [_greatest(noisy[start : start + each]) for start in range(0, count * each, each)]
        stored = self.sink.store(group, merged, self.read_base, whole)
        survived = diagnostics.survived(gram[:, -1, -1].clamp_min(0).sqrt(), stored.rounding_error)
        ranks = stored.rank if stored.rank is not None else diagnostics.kept_rank(merged)
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
            self._base[name] = self.read_base(name).to(self.device, torch.float32).reshape(self.group.shape)
        return self._base[name]

    def base_stack(self) -> Tensor:
        """[names, *shape]; the single tensors are views of it, so that the base is in memory once."""
        if len(self.group.names) == 1:
            return self.base(self.group.names[0]).unsqueeze(0)
        stack = torch.stack([self.base(name) for name in self.group.names])
        self._base = dict(zip(self.group.names, stack, strict=True))
        return stack

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
        stack = torch.empty(len(self.experts), len(self.group.names), *self.group.shape, device=self.device)
        for place, expert in zip(stack, self.experts, strict=True):
            for row, name in zip(place, self.group.names, strict=True):
                row.copy_(self._dense_of(expert, name, in_weights))
        return stack.flatten(1, 2) if self.group.stacked else stack

    def _dense_of(self, expert: Expert, name: str, in_weights: bool) -> Tensor:
        def read() -> Tensor:
            return self.base(name)

        value = expert.weight(name, read) if in_weights else expert.delta(name, read)
        if value is None:
            return torch.zeros(self.group.shape, device=self.device)
        return _dense(value.to(self.device, torch.float32)).reshape(self.group.shape)


def unstack(merged: Tensor | LowRank, shape: tuple[int, int]) -> Tensor | LowRank:
    """[names * matrices, m, n] -> [names, matrices, m, n]."""
    return merged.unflatten(shape) if isinstance(merged, LowRank) else merged.unflatten(0, shape)


def _greatest(ranks: Sequence[int | None]) -> int | None:
    return max((rank for rank in ranks if rank is not None), default=None)


def _dense(delta: Tensor | LowRank) -> Tensor:
    return delta.dense() if isinstance(delta, LowRank) else delta


def noise_floor(base: Tensor | None, spacing: float) -> Tensor | None:
    """Singular values that storage rounding alone gives a delta, float32 [batch].

    Rounding to a dtype with relative spacing eps moves a weight by up to eps/2 of its size, a uniform error of
    standard deviation eps |w| / sqrt(12); the largest singular value of such an [m, n] matrix is about
    sigma (sqrt m + sqrt n) (Bai and Yin, 1988). None where nothing was rounded (spacing 0), or is no matrix.
    """
    if base is None or base.ndim != 3 or not spacing:
        return None
    rows, columns = base.shape[1:]
    spread = base.square().mean((1, 2)).sqrt() * spacing / 12**0.5
    return spread * (rows**0.5 + columns**0.5)
