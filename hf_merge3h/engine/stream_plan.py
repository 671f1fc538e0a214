"""A streamed merge as it was planned: what is read, how it is merged, what comes out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..linalg.low_rank import LowRank
from ..models.sources import SourceModel
from ..models.types import ReadBase, TensorSpec
from ..models.weights.ahead import Span
from ..models.weights.writer import nbytes
from ..recipes.types import Recipe, TensorJob
from .depth import Stack
from .matching import Vocabulary
from .plan import Group
from .request import Request
from .workers import workers


@dataclass(frozen=True)
class Input:
    """One expert's tensor in one step: what `Expert` is to a whole model."""

    label: str
    role: str
    model: SourceModel
    name: str
    target: str
    spec: TensorSpec
    own_base: bool

    def specs(self) -> Mapping[str, TensorSpec]:
        """The one tensor, under the output's name."""
        return {self.target: self.spec}

    def delta(self, name: str, base: ReadBase) -> Tensor | LowRank | None:
        """What it has beyond the base; an adapter's change as its factors say, where the base is its own."""
        origin = base()
        if self.own_base:
            return self.model.delta(self.name, origin)
        return self.model.load(self.name).to(origin.device, torch.float32) - origin

    def weight(self, name: str, base: ReadBase) -> Tensor:
        """The tensor as it is."""
        return self.model.load(self.name).float()


@dataclass(frozen=True)
class Step:
    """How one tensor of the output comes to be.

    Attributes:
        job: what the recipe says.
        spec: of the output.
        inputs: in the order in which the method sees them.
        base: the base's tensor, if there is one.
        request, group: for the method; None where the tensor is copied, times `factor`.
        setting: steps with the same one share a method's whole-model statistics.
    """

    job: TensorJob
    spec: TensorSpec
    inputs: tuple[Input, ...]
    base: tuple[SourceModel, str] | None
    request: Request | None = None
    group: Group | None = None
    factor: float = 1.0
    setting: Any = None

    def spans(self) -> Iterator[Span]:
        """The bytes on disk that it reads."""
        for model, name in [*((each.model, each.name) for each in self.inputs), *([self.base] if self.base else [])]:
            if name in model.specs:
                yield model.checkpoint.place(name)

    @property
    def bytes_read(self) -> int:
        """Bytes that it reads."""
        return sum(end - start for _, start, end in self.spans())

    def read_base(self, name: str) -> Tensor:
        """The base's tensor."""
        assert self.base is not None
        return self.base[0].load(self.base[1])


@dataclass(frozen=True)
class StreamPlan:
    """A streamed merge that can be carried out.

    Attributes:
        recipe: with the seed that counts.
        models: opened, in the recipe's order.
        steps: in the order of the output.
        constants: integer tensors of the output, equal in all models.
        device: to compute on.
        layers: the output's number of layers, where it is not the first model's.
        vocabulary: the output's, where the recipe brings vocabularies together.
        stacks: whose number of layers is another one than in the model that the output's config comes from.
    """

    recipe: Recipe
    models: tuple[SourceModel, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, Tensor]
    device: torch.device
    layers: int | None
    vocabulary: Vocabulary | None = None
    stacks: tuple[Stack, ...] = ()

    @property
    def main(self) -> SourceModel:
        """The model whose config and tokenizer the output gets: the base, else the first."""
        return self.models[self.recipe.base or 0]

    @functools.cached_property
    def specs(self) -> dict[str, TensorSpec]:
        """The output's tensors, in order."""
        found = {step.job.name: step.spec for step in self.steps}
        found.update({name: TensorSpec(tuple(each.shape), each.dtype) for name, each in self.constants.items()})
        return found

    @functools.cached_property
    def bytes_read(self) -> int:
        """Bytes of all inputs, once."""
        return sum(step.bytes_read for step in self.steps)

    @functools.cached_property
    def bytes_written(self) -> int:
        """Bytes of the output's tensors."""
        return sum(nbytes(spec) for spec in self.specs.values())

    @property
    def bytes_absent(self) -> int:
        """Bytes of the inputs that are still on the Hub alone, each file once."""
        return sum({model.found.folder: model.checkpoint.bytes_absent for model in self.models}.values())

    @property
    def peak_memory(self) -> int:
        """About how much anonymous memory it takes: the program, and the largest steps, one for each worker."""
        largest = sorted(map(peak, self.steps), reverse=True)
        parts = all(map(_in_parts, self.steps))
        return sum(largest[: workers() if parts else 1]) + (1 << 27)


def peak(step: Step) -> int:
    """A step in parts holds a few chunks, more where it looks first, and a bit for each entry that is drawn by lot; a
    whole one its stack, what the method makes of it, base and result."""
    numbers, experts = math.prod(step.spec.shape), len(step.inputs)
    if not _in_parts(step):
        return 4 * numbers * (2 * experts + 3)
    entrywise = step.request is None or step.request.method.elementwise
    drawn = step.request is not None and step.request.method.random
    chunks = min(4 * numbers * (experts + 2), 1 << 26 if entrywise else 7 << 24)
    return chunks + (numbers * experts // 8 if drawn else 0)


def _in_parts(step: Step) -> bool:
    """Whether it is carried out in parts, as far as its method says."""
    return step.request is None or step.request.method.elementwise or step.request.method.parts is not None


#: Called after each step with what has been done.
Tell = Callable[["Progress"], None]


@dataclass(frozen=True)
class Progress:
    """How far a merge has come: bytes read and written, of how many, in how many seconds."""

    done: int
    total: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def left(self) -> float:
        """Seconds that remain at this rate."""
        return (self.total - self.done) / self.rate if self.rate else math.inf
