"""Carry out a streamed merge: one tensor in flight, read ahead, written behind, a folder that appears whole."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..linalg import native
from ..linalg.low_rank import LowRank
from ..manifest import Manifest
from ..models.weights.ahead import ReadAhead
from ..models.weights.output import OutputFolder
from ..models.weights.writer import ShardWriter, nbytes, parse_size, plan_shards
from ..publishing.card import read_old
from .ambient import in_plain_arithmetic
from .finish import finish, hash_files
from .folder import write_side_files
from .manifest import make_manifest
from .measures import TensorReport
from .plan import Group, Plan
from .run import BaseReader, Run, Stored
from .sinks import add_and_round
from .stream_plan import Progress, Step, StreamPlan, Tell
from .walk import Walk, walk_of
from .workers import Crew, Pool

_MARGIN = 1 << 24  # bytes of config, tokenizer, manifest and the file system's own
_PIECE = 1 << 22  # entries of a copied tensor at a time
_KEPT = (1 << 25) - (1 << 16)  # bytes, a little under glibc's greatest threshold


@dataclass
class StreamSink:
    """Adds merged deltas to the base's tensor, rounds to the output's dtype, and hands it to the writer."""

    step: Step
    writer: ShardWriter

    def store(
        self, group: Group, merged: Tensor | LowRank, read_base: BaseReader, whole: Tensor | None = None
    ) -> Stored:
        """Round, write, and measure what rounding lost."""
        name, wanted = group.names[0], None if whole is None else whole[0]
        origin = None if self.step.base is None else read_base(name)
        rounded, lost = add_and_round(name, merged[0], origin, self.step.spec.dtype, wanted)
        self.writer.write(name, rounded)
        return Stored(lost.reshape(1))


@dataclass
class StreamRun:
    """One run of a plan into a folder.

    Attributes:
        measure: take diagnostics, and hashes of all files.
        tell: is called after each step.
        card: of the folder that is replaced; what people wrote in it is kept.
    """

    plan: StreamPlan
    folder: Path
    max_shard_size: int
    measure: bool = True
    tell: Tell | None = None
    card: str = ""
    _statistics: dict[Any, Any] = field(default_factory=dict)
    _started: float = 0.0
    _done: int = 0

    def __call__(self) -> Manifest:
        """Merge everything; the folder holds weights, config, tokenizer and manifest then."""
        self._started = time.perf_counter()
        shards = plan_shards(self.plan.specs, self.max_shard_size)
        steps = {step.job.name: step for step in self.plan.steps}
        order = [name for shard in shards for name in shard.tensors]
        spans = [list(steps[name].spans()) if name in steps else [] for name in order]
        files = {path for model in self.plan.models for path in model.checkpoint.files} if self.measure else set()
        reports: dict[str, list[TensorReport]] = {}
        writer = ShardWriter(self.folder, shards, hashes=self.measure)

        def work(name: str, pool: Pool) -> list[TensorReport]:
            if name in steps:
                return self._step(steps[name], pool, writer)
            writer.write(name, self.plan.constants[name])
            return []

        try:
            with _one_thread(self.plan.device), torch.no_grad():
                self._prepare()
                entries = sum(math.prod(step.spec.shape) for step in self.plan.steps)
                native.load(entries)
                forked = all(self._in_parts(step) for step in self.plan.steps)
                with Crew(order, work, entries, forked=forked) as crew, ReadAhead(spans, sorted(files)) as ahead:
                    for number, (name, found) in enumerate(crew, start=1):
                        reports[name] = found
                        writer.finished(name)
                        ahead.advance(number)
                        self._tell(name, steps)
                    outputs, inputs = writer.close(), ahead.hashes()
        except BaseException:
            writer.abort()
            raise
        finally:
            for model in self.plan.models:
                model.checkpoint.close()
        write_side_files(self.plan, self.folder)
        seconds = time.perf_counter() - self._started
        if self.measure:
            outputs |= hash_files(each for each in self.folder.iterdir() if each.name not in outputs)
        in_order = [report for name in order for report in reports[name]]
        manifest = make_manifest(self.plan, in_order, inputs, outputs, measured=self.measure, seconds=seconds)
        return finish(self.folder, manifest, self.card)

    def _tell(self, name: str, steps: Mapping[str, Step]) -> None:
        self._done += nbytes(self.plan.specs[name]) + (steps[name].bytes_read if name in steps else 0)
        if self.tell is not None:
            total = self.plan.bytes_read + self.plan.bytes_written
            self.tell(Progress(self._done, total, time.perf_counter() - self._started))

    def _prepare(self) -> None:
        """Whole-model statistics, for each setting that a method asks them for."""
        settings: dict[Any, list[Step]] = {}
        for step in self.plan.steps:
            if step.request is not None and step.request.method.prepare is not None:
                settings.setdefault(step.setting, []).append(step)
        for setting, steps in settings.items():
            request = steps[0].request
            assert request is not None
            assert request.method.prepare is not None
            accumulator = request.method.prepare(request.parameters, len(request.roles))
            if accumulator is None:
                continue
            for number in range(accumulator.passes):
                for step in steps:
                    assert step.group is not None
                    if request.method.matrix_only and not step.group.spectral:
                        continue  # what is averaged needs no measuring
                    vectors = self._run(step, None).read(step.group)
                    accumulator.observe(number, step.group.entry_names(), vectors, step.group.spectral)
            self._statistics[setting] = accumulator.result()

    def _step(self, step: Step, pool: Pool, writer: ShardWriter) -> list[TensorReport]:
        if step.request is None or step.group is None:
            _copy(step, pool, writer)
            return []
        walk = self._walk(step)
        if walk is not None:
            report = walk(pool, writer)
            return [] if report is None else [report]
        return self._run(step, writer).merge(step.group, self._statistics.get(step.setting))

    def _walk(self, step: Step) -> Walk | None:
        """The step in parts; None where it must be whole."""
        assert step.group is not None
        supplied = self._run(step, None).supplied(step.group, self._statistics.get(step.setting), None)
        return walk_of(step, supplied, self.measure)

    def _in_parts(self, step: Step) -> bool:
        """Whether one core is enough for it, and a little memory: all but methods that need a tensor as a whole."""
        return step.request is None or step.group is None or self._walk(step) is not None

    def _run(self, step: Step, writer: ShardWriter | None) -> Run:
        """The engine's own run, over this one tensor."""
        assert step.request is not None
        assert step.group is not None
        return Run(
            plan=Plan(step.request.method.name, (step.group,)),
            request=step.request,
            experts=step.inputs,
            read_base=step.read_base,
            base_label="the base" if step.base is None else step.base[0].label,
            sink=StreamSink(step, writer),  # type: ignore[arg-type]  # nothing is stored while statistics are taken
            weights_at_hand=step.base is not None,
            progress=False,
            measure=self.measure,
            baseless=step.base is None,
        )


def _copy(step: Step, pool: Pool, writer: ShardWriter) -> None:
    """Passthrough: the tensor as it is, times a factor, in the output's dtype."""
    flat = step.inputs[0].model.load(step.inputs[0].name).reshape(-1)

    def piece(start: int) -> Tensor:
        part = flat[start : start + _PIECE]
        return part.to(step.spec.dtype) if step.factor == 1.0 else (part.float() * step.factor).to(step.spec.dtype)

    for part in pool.map(piece, range(0, len(flat), _PIECE)):
        writer.write(step.job.name, part)
    if not len(flat):
        writer.write(step.job.name, flat.to(step.spec.dtype))


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Chunks are merged by several threads at once; torch's own would only stand in their way."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
        # Having freed one block of this size, glibc keeps what is freed from then on (mallopt(3), M_MMAP_THRESHOLD):
        # else each temporary of each block would be asked from the kernel, and zeroed by it, anew.
        torch.empty(_KEPT, dtype=torch.uint8)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@in_plain_arithmetic
def merge_plan(
    plan: StreamPlan,
    out: str | Path,
    *,
    max_shard_size: int | str = "5GB",
    diagnostics: bool = True,
    overwrite: bool = False,
    tell: Tell | None = None,
) -> Manifest:
    """Carry out a plan; see `merge_recipe`."""
    size = parse_size(max_shard_size)
    output = OutputFolder(Path(out), overwrite=overwrite)
    output.check()
    for model in plan.models:
        adapters = [(adapter.label, found.folder) for found, adapter in model.adapters]
        output.spare([(model.label, model.found.folder), *adapters])
    output.check_space(plan.bytes_written + _MARGIN)
    card = read_old(output.target)
    for model in plan.models:
        model.checkpoint.fetch()
    with output as folder:
        return StreamRun(plan, folder, size, diagnostics, tell, card)()
