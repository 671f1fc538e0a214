"""One tensor of a streamed merge, block by block: converted, merged, measured and rounded while in cache."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..apply import parts_of
from ..linalg import figures, native, stored
from ..linalg.blocks import block_of
from ..linalg.figures import Figures
from ..linalg.precision import all_finite
from ..models.weights.writer import ShardWriter
from ..passes import Products, Weighted
from ..registry import Parts
from . import diagnostics
from .measures import TensorReport
from .sinks import refuse_overflow
from .stream_plan import Step
from .workers import Pool

PIECE = 1 << 19  # entries that one worker goes through at a time, block by block


@dataclass
class _Block:
    """Where a block begins, its vectors [task, 1, entries], the base's entries, float32, and whether all is finite."""

    start: int
    vectors: Tensor
    base: Tensor | None
    known: bool | None  # None: not looked at

    def finite(self, in_weights: bool) -> bool:
        """Whether all that was read seems to be finite."""
        if self.known is not None:
            return self.known
        # A sum is finite only if every number is, or it overflows, which `_refuse` then acquits: one cheap pass.
        check = float(self.vectors.sum())
        if self.base is not None and in_weights:
            check += float(self.base.sum())
        return math.isfinite(check)


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
    _sums: stored.Sums | None = None
    _block: int = 0
    _piece: int = 0

    def __call__(self, pool: Pool, writer: ShardWriter) -> TensorReport | None:
        """Merge the tensor into the writer."""
        group, spec = self.step.group, self.step.spec
        assert group is not None
        self._flat = [each.model.load(each.name).reshape(-1) for each in self.step.inputs]
        if self.step.base is not None and (self.measure or not self._in_weights):
            self._base = self.step.read_base("").reshape(-1)
        self._sums = stored.Sums.of(self._flat, self._base, subtract=not self._in_weights)
        self._block = block_of(self.parts.unit)
        self._piece = max(1, PIECE // self._block) * self._block
        while (stride := self.parts.stride()) is not None:
            # A sample is made of the entries 0, stride, 2 stride, ...: larger parts, so that they stay worth a call.
            look = functools.partial(self._look, stride)
            for seen in pool.map(look, range(0, group.numbers, self._piece * stride)):
                for each in seen:
                    self.parts.add(each)
        sums = Figures.nothing(len(self._flat))
        for rounded, found in pool.map(self._merge, range(0, group.numbers, self._piece)):
            writer.write(self.step.job.name, rounded)
            sums.add(found)
        if not group.numbers:
            writer.write(self.step.job.name, torch.empty(0, dtype=spec.dtype))
        return self._report(sums) if self.measure and self._base is not None and group.numbers else None

    def _blocks(self, start: int, stride: int = 1) -> Iterator[_Block]:
        """The blocks of a piece; each one is overwritten with the next."""
        stop = min(start + self._piece * stride, len(self._flat[0]))
        known = [*self._flat] if self._base is None else [*self._flat, self._base]
        if stride == 1 and stored.reads(known):
            read = stored.Reader(self._flat, self._base, subtract=not self._in_weights)
            for left in range(start, stop, self._block):
                yield _Block(left, *read(left, min(self._block, stop - left)))
            return
        # Views are made for whole pieces: one costs as much as some thousand entries do.
        piece, size = slice(start, stop, stride), 0
        parts = [flat[piece].split(self._block) for flat in self._flat]
        bases = None if self._base is None else self._base[piece].split(self._block)
        for number, block in enumerate(zip(*parts, strict=True)):
            if size != len(block[0]):
                size = len(block[0])
                stack, origin = torch.empty(len(parts), 1, size), None if bases is None else torch.empty(size)
                rows = stack[:, 0].unbind()
            for row, part in zip(rows, block, strict=True):
                row.copy_(part)
            if bases is not None and origin is not None:
                origin.copy_(bases[number])
                if not self._in_weights:
                    stack.sub_(origin)
            yield _Block(start + number * self._block * stride, stack, origin, None)

    def _look(self, stride: int, start: int) -> list[Any]:
        if stride == 1 and self._sums is not None and isinstance(self.parts.comes_to, Products):
            size = min(self._piece, len(self._flat[0]) - start)
            return list(self._sums.products(start, size, self._block))
        return [self.parts.look(each.start, each.vectors) for each in self._blocks(start, stride)]

    def _merge(self, start: int) -> tuple[Tensor, Figures]:
        """One piece of the output in its storage dtype, and what was measured on the way."""
        rounded = torch.empty(min(self._piece, len(self._flat[0]) - start), dtype=self.step.spec.dtype)
        known = self.parts.comes_to
        if self._sums is not None and isinstance(known, Weighted) and _is_short(rounded):
            return rounded, self._average(self._sums, known, start, rounded)
        found, fits, sound = Figures.nothing(len(self._flat)), True, True
        places = rounded.split(self._block)
        for place, block in zip(places, self._blocks(start), strict=True):
            sound &= block.finite(self._in_weights)
            merged = self.parts.merge(block.start, block.vectors)[0]
            fits &= self._round(merged, block.base, place)
            if self.measure and block.base is not None:
                vectors = block.vectors[:, 0]
                found.add(figures.measured(vectors, merged, block.base, place, in_weights=self._in_weights))
        if not sound:
            self._refuse()
        if not fits:
            self._refuse_overflow(start)
        return rounded, found

    def _average(self, sums: stored.Sums, known: Weighted, start: int, rounded: Tensor) -> Figures:
        """The same in one reading."""
        if self.measure and self._base is not None:
            sound, found = sums.average_measured(start, known.weights, known.ratio, rounded)
        else:
            sound = sums.average(start, known.weights, known.ratio, rounded)
            found = Figures.nothing(len(self._flat))
        if not sound:
            self._refuse()
            self._refuse_overflow(start)
        return found

    def _round(self, merged: Tensor, base: Tensor | None, place: Tensor) -> bool:
        """Write what is stored; whether all of it is finite."""
        if _is_short(place) and native.takes(merged):
            return stored.narrow(merged, None if self._in_weights else base, place)
        place.copy_(self._exact(merged, base))
        return all_finite(place)

    @property
    def _in_weights(self) -> bool:
        assert self.step.request is not None
        return self.step.request.method.space == "weight"

    def _exact(self, merged: Tensor, base: Tensor | None) -> Tensor:
        return merged if base is None or self._in_weights else merged + base

    def _refuse(self) -> None:
        """Name the first number that is not finite, of the whole tensors; a sum may also have overflowed."""
        labels = [each.label for each in self.step.inputs]
        for label, flat in zip(labels, self._flat, strict=True):
            tensor = flat.float().reshape(1, 1, *self.step.spec.shape)
            diagnostics.refuse_non_finite(tensor, [self.step.job.name], [label])
        if self._base is not None and self.step.base is not None:
            tensor = self._base.float().reshape(1, 1, *self.step.spec.shape)
            diagnostics.refuse_non_finite(tensor, [self.step.job.name], [self.step.base[0].label])

    def _refuse_overflow(self, start: int) -> None:
        """Name what does not fit into the output's dtype."""
        for block in self._blocks(start):
            exact = self._exact(self.parts.merge(block.start, block.vectors)[0], block.base)
            refuse_overflow(self.step.job.name, exact, self.step.spec.dtype)

    def _report(self, sums: Figures) -> TensorReport:
        size = float(sums.gram[-1, -1].clamp_min(0).sqrt())
        return TensorReport(
            name=self.step.job.name,
            shape=self.step.spec.shape,
            gram=tuple(tuple(row) for row in sums.gram.tolist()),
            sign_conflict=sums.conflicts / max(sums.changed, 1) if len(self._flat) > 1 else None,
            kept_rank=None,
            survived=min(1.0, max(0.0, 1 - sums.lost**0.5 / size)) if size else 1.0,
        )


def _is_short(target: Tensor) -> bool:
    return target.dtype == torch.bfloat16


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
    parts = parts_of(request.method, weights, group.parameters, supplied, group.shape, spectral=group.spectral)
    return None if parts is None else Walk(step, parts, measure)
