"""One tensor of a streamed merge, chunk by chunk: converted, merged, measured, rounded and written while in cache."""

from __future__ import annotations

import collections
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..apply import parts_of
from ..models.weights.writer import ShardWriter
from ..registry import Parts
from . import diagnostics
from .measures import TensorReport
from .sinks import refuse_overflow
from .stream_plan import Step

CHUNK = 1 << 17  # entries; those of four experts in float32 are 2 MiB
_SAMPLE = 8  # one in so many entries is asked for the sign conflict

Result = TypeVar("Result")


class Pool:
    """Maps over chunks by a few threads, results in order, only so many at a time."""

    def __init__(self) -> None:
        self._workers = min(8, os.cpu_count() or 1)
        self._executor = ThreadPoolExecutor(self._workers, thread_name_prefix="merge")

    def map(self, function: Callable[[int], Result], starts: range) -> Iterator[Result]:
        """The function at each start, in order."""
        if len(starts) < 2:
            yield from map(function, starts)
            return
        waiting: collections.deque[Future[Result]] = collections.deque()
        try:
            for start in starts:
                waiting.append(self._executor.submit(function, start))
                if len(waiting) > 2 * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)


@dataclass
class Sums:
    """What the chunks of one tensor add up to."""

    gram: Tensor | float = 0.0
    lost: float = 0.0
    changed: int = 0
    conflicts: int = 0

    def add(self, gram: Tensor, lost: float, changed: int, conflicts: int) -> None:
        """Take in one chunk."""
        self.gram = self.gram + gram
        self.lost += lost
        self.changed += changed
        self.conflicts += conflicts


@dataclass
class Walk:
    """A step that is carried out in parts.

    Attributes:
        step: which.
        parts: how its method treats parts.
        measure: whether to look at what it does.
    """

    step: Step
    parts: Parts
    measure: bool
    _flat: list[Tensor] = field(default_factory=list)
    _base: Tensor | None = None

    def __call__(self, pool: Pool, writer: ShardWriter) -> TensorReport | None:
        """Merge the tensor into the writer."""
        group, spec = self.step.group, self.step.spec
        assert group is not None
        self._flat = [each.model.load(each.name).reshape(-1) for each in self.step.inputs]
        self._base = None if self.step.base is None else self.step.read_base("").reshape(-1)
        starts = range(0, group.numbers, CHUNK)
        while (stride := self.parts.stride()) is not None:
            # A sample is made of the entries 0, stride, 2 stride, ...: larger parts, so that they stay worth a call.
            look = functools.partial(self._look, stride)
            for seen in pool.map(look, range(0, group.numbers, CHUNK * stride)):
                self.parts.add(seen)
        sums = Sums()
        for rounded, figures in pool.map(self._merge, starts):
            writer.write(self.step.job.name, rounded)
            if figures is not None:
                sums.add(*figures)
        if not group.numbers:
            writer.write(self.step.job.name, torch.empty(0, dtype=spec.dtype))
        return self._report(sums) if self.measure and self._base is not None and group.numbers else None

    def _vectors(self, start: int, stride: int = 1) -> tuple[Tensor, Tensor | None]:
        """[task, 1, entries] and the base's entries, float32."""
        chosen = slice(start, start + CHUNK * stride, stride)
        base = None if self._base is None else self._base[chosen].float()
        stack = torch.empty(len(self._flat), 1, len(self._flat[0][chosen]))
        request = self.step.request
        assert request is not None
        for row, tensor in zip(stack, self._flat, strict=True):
            row[0].copy_(tensor[chosen])
            if base is not None and request.method.space == "delta":
                row[0].sub_(base)
        return stack, base

    def _look(self, stride: int, start: int) -> Any:
        return self.parts.look(self._vectors(start, stride)[0])

    def _merge(self, start: int) -> tuple[Tensor, tuple[Tensor, float, int, int] | None]:
        vectors, base = self._vectors(start)
        request = self.step.request
        assert request is not None
        if not bool(torch.isfinite(vectors.sum() if base is None else vectors.sum() + base.sum())):
            self._refuse()
        merged = self.parts.merge(start, vectors)
        in_weights = base is None or request.method.space == "weight"
        whole = merged[0] if in_weights else merged[0] + base
        rounded = refuse_overflow(self.step.job.name, whole, self.step.spec.dtype)
        if not self.measure or base is None:
            return rounded, None
        deltas = vectors - base if in_weights else vectors
        change = merged[0] - base if in_weights else merged[0]
        return rounded, self._measure(deltas, change, base, rounded)

    def _measure(self, deltas: Tensor, change: Tensor, base: Tensor, rounded: Tensor) -> tuple[Tensor, float, int, int]:
        rows = torch.cat([deltas[:, 0], change.unsqueeze(0)])
        gram = (rows @ rows.mT).double()
        lost = 0.0
        if rounded.dtype != torch.float32:
            lost = float((rounded.float() - base).sub_(change).square_().sum())
        sample = deltas[:, 0, ::_SAMPLE]
        up, down = (sample > 0).any(0), (sample < 0).any(0)
        return gram, lost, int((up | down).sum()), int((up & down).sum())

    def _refuse(self) -> None:
        """Find the first number that is not finite, in the whole tensors; a sum may also have overflowed."""
        labels = [each.label for each in self.step.inputs]
        for label, flat in zip(labels, self._flat, strict=True):
            tensor = flat.float().reshape(1, 1, *self.step.spec.shape)
            diagnostics.refuse_non_finite(tensor, [self.step.job.name], [label])
        if self._base is not None and self.step.base is not None:
            tensor = self._base.float().reshape(1, 1, *self.step.spec.shape)
            diagnostics.refuse_non_finite(tensor, [self.step.job.name], [self.step.base[0].label])

    def _report(self, sums: Sums) -> TensorReport:
        assert isinstance(sums.gram, Tensor)
        size = float(sums.gram[-1, -1].clamp_min(0).sqrt())
        return TensorReport(
            name=self.step.job.name,
            shape=self.step.spec.shape,
            gram=tuple(tuple(row) for row in sums.gram.tolist()),
            sign_conflict=sums.conflicts / max(sums.changed, 1) if len(self._flat) > 1 else None,
            kept_rank=None,
            survived=min(1.0, max(0.0, 1 - sums.lost**0.5 / size)) if size else 1.0,
        )


def walk_of(step: Step, supplied: dict[str, Any], measure: bool) -> Walk | None:
    """How to carry out a step in parts; None where it must be whole."""
    request, group = step.request, step.group
    assert request is not None
    assert group is not None
    if request.device.type != "cpu" or "base" in request.method.needs:
        return None
    if step.base is not None and step.base[0].specs[step.base[1]].dtype == torch.float64:
        return None  # the sum is taken in float64
    if any(each.own_base for each in step.inputs):  # an adapter's change is made whole
        return None
    weights = torch.tensor(group.weights, dtype=torch.float32)
    parts = parts_of(request.method, weights, group.parameters, supplied, group.numbers, spectral=group.spectral)
    return None if parts is None else Walk(step, parts, measure)
