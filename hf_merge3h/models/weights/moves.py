"""Programs that only move entries of tensors about, run forwards and backwards.

Transformers 5 fuses, splits and permutes tensors between disk and memory. What it does on saving is recorded once,
on meta tensors, and replayed on one group of tensors at a time. Each step is a permutation of entries, so its inverse
is its transpose, and autograd knows the transpose of every step: no table of inverses is kept here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: Operations that permute entries and do nothing else. Copies are left out of a program, so most of it is views.
_MOVES = frozenset(
    {
        "cat",
        "concat",
        "concatenate",
        "stack",
        "hstack",
        "vstack",
        "chunk",
        "split",
        "split_with_sizes",
        "tensor_split",
        "unbind",
        "select",
        "narrow",
        "__getitem__",
        "transpose",
        "swapaxes",
        "swapdims",
        "t",
        "permute",
        "movedim",
        "moveaxis",
        "reshape",
        "view",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "flip",
        "roll",
    }
)
_COPIES = frozenset({"contiguous", "clone", "detach"})


class NotAMoveError(Exception):
    """A recorded operation does more than move entries."""


class _Slot(int):
    """A tensor's place in a program."""


@dataclass(frozen=True)
class _Step:
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    outputs: tuple[_Slot, ...]


@dataclass(frozen=True)
class Program:
    """Tensors in, tensors out, the same entries in other places.

    Attributes:
        inputs: the name of each tensor that goes in, with its shape.
        outputs: the name of each tensor that comes out, with its place.
        steps: what happens in between.
    """

    inputs: Mapping[str, tuple[_Slot, tuple[int, ...]]]
    outputs: Mapping[str, _Slot]
    steps: tuple[_Step, ...]

    def run(self, tensors: Mapping[str, Tensor], wanted: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The outputs (or those wanted, by the steps that these need); views of the inputs wherever possible."""
        names = list(self.outputs if wanted is None else wanted)
        steps = self.steps if wanted is None else self._needed(names)
        values = {slot: tensors[name] for name, (slot, _) in self.inputs.items() if name in tensors}
        for step in steps:
            result = step.function(*_fill(step.arguments, values), **_fill(step.keywords, values))
            produced = (result,) if isinstance(result, Tensor) else tuple(result)
            values.update(zip(step.outputs, produced, strict=True))
        return {name: values[self.outputs[name]] for name in names}

    def invert(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs that `run` makes these outputs of, bit for bit; new memory, in the outputs' common dtype."""
        names = list(self.outputs)
        dtype = functools.reduce(torch.promote_types, (tensors[name].dtype for name in names))
        device = tensors[names[0]].device
        gradients = [tensors[name].to(device=device, dtype=dtype) for name in names]
        # A transpose is wanted, never a gradient: whatever mode the caller is in, it must be on in here only.
        with torch.inference_mode(False), torch.enable_grad():
            leaves = {
                name: torch.zeros((), dtype=dtype, device=device).expand(shape).requires_grad_()
                for name, (_, shape) in self.inputs.items()
            }
            made = self.run(leaves)
            found = torch.autograd.grad([made[name] for name in names], list(leaves.values()), gradients)
        return {name: tensor.detach().contiguous() for name, tensor in zip(leaves, found, strict=True)}

    def _needed(self, names: Iterable[str]) -> list[_Step]:
        wanted = {self.outputs[name] for name in names}
        steps = []
        for step in reversed(self.steps):
            if not wanted.isdisjoint(step.outputs):
                wanted.update(_slots((step.arguments, step.keywords)))
                steps.append(step)
        return steps[::-1]


def record(
    function: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], shapes: Mapping[str, tuple[int, ...]]
) -> list[Program]:
    """Run a function once on meta tensors and cut what it did into independent programs.

    Args:
        function: takes and returns tensors by name.
        shapes: of the tensors that it is given.

    Returns:
        One program for each connected component of names, in the order of their first input. An input that is
        only renamed has a program without steps.

    Raises:
        NotAMoveError: for an operation that computes, or entries that are lost or doubled.
    """
    inputs = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    tape = _Tape(inputs.values())
    with tape:
        outputs = dict(function(dict(inputs)))
    for name, tensor in outputs.items():
        if id(tensor) not in tape.slots:
            raise NotAMoveError(f"tensor {name!r} is made of nothing that lies in memory")
    return list(_components(inputs, outputs, tape))


class _Tape(TorchFunctionMode):
    """Writes down each operation on the tensors it was given and on what comes of them."""

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()
        self.alive = list(inputs)  # keeps every id unique while recording
        self.slots = {id(tensor): _Slot(number) for number, tensor in enumerate(self.alive)}
        self.sources = {_Slot(number): frozenset({number}) for number in range(len(self.alive))}
        self.steps: list[_Step] = []

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        result = function(*arguments, **keywords)
        several = isinstance(result, (tuple, list))
        produced = [each for each in (result if several else [result]) if isinstance(each, Tensor)]
        held = _hold((arguments, keywords), self.slots)
        read = _slots(held)
        if not read or all(id(each) in self.slots for each in produced):
            return result
        name = getattr(function, "__name__", repr(function))
        self.alive += produced
        if name in _COPIES:
            self.slots[id(result)] = read[0]
            return result
        if name not in _MOVES or any(isinstance(each, torch.dtype) for each in arguments):
            raise NotAMoveError(f"operation {name!r} does more than move entries")
        if name == "view":  # a program skips copies, so what was contiguous on recording need not be on replay
            function = Tensor.reshape
        numbers = tuple(_Slot(len(self.sources) + offset) for offset in range(len(produced)))
        for slot, each in zip(numbers, produced, strict=True):
            self.slots[id(each)] = slot
            self.sources[slot] = frozenset().union(*(self.sources[source] for source in read))
        self.steps.append(_Step(function, held[0], held[1], numbers))
        return result


def _components(inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], tape: _Tape) -> Iterable[Program]:
    """Cut a tape into its connected components."""
    parent = list(range(len(inputs)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for tensor in outputs.values():
        first, *others = sorted(tape.sources[tape.slots[id(tensor)]])
        for other in others:
            high, low = sorted((root(first), root(other)), reverse=True)
            parent[high] = low
    parts: dict[int, tuple[dict, dict, list]] = {root(number): ({}, {}, []) for number in range(len(inputs))}
    for number, (name, tensor) in enumerate(inputs.items()):
        parts[root(number)][0][name] = (_Slot(number), tuple(tensor.shape))
    for name, tensor in outputs.items():
        slot = tape.slots[id(tensor)]
        parts[root(min(tape.sources[slot]))][1][name] = slot
    for step in tape.steps:
        parts[root(min(tape.sources[step.outputs[0]]))][2].append(step)
    for taken, given, steps in parts.values():
        entries = sum(inputs[name].numel() for name in taken), sum(outputs[name].numel() for name in given)
        if entries[0] != entries[1] or len(set(given.values())) < len(given):
            raise NotAMoveError(f"{', '.join(taken)}: {entries[0]} entries in memory, {entries[1]} on disk")
        yield Program(taken, given, tuple(steps))


def _hold(structure: Any, slots: Mapping[int, _Slot]) -> Any:
    """The same structure with places instead of the tensors that have one."""
    if isinstance(structure, Tensor):
        return slots.get(id(structure), structure)
    if isinstance(structure, Mapping):
        return {key: _hold(each, slots) for key, each in structure.items()}
    return tuple(_hold(each, slots) for each in structure) if isinstance(structure, (tuple, list)) else structure


def _fill(structure: Any, values: Mapping[_Slot, Tensor]) -> Any:
    """The same structure with tensors instead of places."""
    if isinstance(structure, _Slot):
        return values[structure]
    if isinstance(structure, Mapping):
        return {key: _fill(each, values) for key, each in structure.items()}
    return tuple(_fill(each, values) for each in structure) if isinstance(structure, (tuple, list)) else structure


def _slots(structure: Any) -> list[_Slot]:
    """All places in a structure."""
    if isinstance(structure, _Slot):
        return [structure]
    if isinstance(structure, Mapping):
        structure = tuple(structure.values())
    return [slot for each in structure for slot in _slots(each)] if isinstance(structure, tuple) else []
