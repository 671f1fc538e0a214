"""How a live model's parameters in memory correspond to the tensors on disk.

Transformers 5 renames and fuses on loading (Mixtral's experts become one stack, ViT's encoder has other names) and
undoes it on saving. The one thing of it used here is `revert_weight_conversion`, the function `save_pretrained` calls:
https://github.com/huggingface/transformers/blob/main/src/transformers/core_model_loading.py
It is run once on meta tensors and recorded, so names and shapes on disk are by construction those that saving writes,
and both directions follow from the record (see `moves`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ..types import TensorSpec
from .moves import NotAMoveError, Program, record
from .ties import Stored, is_pretrained, stored


@dataclass(frozen=True)
class Group:
    """Tensors in memory and tensors on disk that hold the same entries.

    Attributes:
        memory: shape and dtype by name in memory.
        disk: shape and dtype by name on disk.
        program: how entries move from memory to disk; None where one tensor is at most renamed.
    """

    memory: Mapping[str, TensorSpec]
    disk: Mapping[str, TensorSpec]
    program: Program | None


class NameMap:
    """Names, shapes and contents in memory <-> names, shapes and contents on disk.

    For a module that is none of transformers' models both sides are the same. Reads no weights: the model may be on
    meta.

    Args:
        model: any module.
        held: what of it lies on disk, where that is known already.

    Raises:
        RequestError: transformers converts these weights by more than moving entries about.

    Example:
        >>> names = NameMap(nn.Linear(2, 3))
        >>> names.plain("weight")
        'weight'
    """

    def __init__(self, model: nn.Module, held: Stored | None = None) -> None:
        held = stored(model) if held is None else held
        specs = {name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in held.tensors.items()}
        self.groups: tuple[Group, ...] = tuple(
            Group({name: specs[name] for name in program.inputs}, _disk_specs(program, specs), _program(program))
            for program in _programs(model, {name: spec.shape for name, spec in specs.items()})
        )
        shapes = {alias: specs[kept].shape for alias, kept in held.aliases.items()}
        #: The name on disk that each further name of a tied tensor would have, by that name in memory.
        self.alias_on_disk: Mapping[str, str] = {
            next(iter(program.inputs)): next(iter(program.outputs))
            for program in (_programs(model, shapes) if shapes else ())
            if _program(program) is None
        }
        kept = {self.alias_on_disk.get(alias, alias): self.plain(name) for alias, name in held.aliases.items()}
        #: Names on disk that tied tensors could have too, and the names that they have.
        self.aliases: Mapping[str, str] = {alias: name for alias, name in kept.items() if name is not None}

    @cached_property
    def by_disk(self) -> Mapping[str, Group]:
        """The group of each name on disk."""
        return {name: group for group in self.groups for name in group.disk}

    @cached_property
    def by_memory(self) -> Mapping[str, Group]:
        """The group of each name in memory."""
        return {name: group for group in self.groups for name in group.memory}

    def plain(self, memory_name: str) -> str | None:
        """The name on disk of a parameter that is at most renamed (factors of it may stay factors), else None."""
        group = self.by_memory.get(memory_name)
        return next(iter(group.disk)) if group is not None and group.program is None else None

    def to_disk(self, group: Group, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Contents (or deltas) by name in memory -> by name on disk; views of them wherever possible."""
        return self.pick(group, tensors, group.disk)

    def pick(self, group: Group, tensors: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
        """As `to_disk`, but only what is wanted of it."""
        if group.program is None:
            return {name: tensors[next(iter(group.memory))] for name in wanted}
        devices = {tensors[name].device for name in group.memory}
        if len(devices) > 1:  # the parts of one tensor on disk may lie on different devices
            device = tensors[next(iter(group.memory))].device
            tensors = {name: tensors[name].to(device) for name in group.memory}
        return group.program.run(tensors, wanted)

    def to_memory(self, group: Group, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Contents (or deltas) by name on disk -> by name in memory: the exact inverse of `to_disk`."""
        if group.program is None:
            return {next(iter(group.memory)): tensors[next(iter(group.disk))]}
        return group.program.invert(tensors)


def _programs(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[Program]:
    if not is_pretrained(model):
        return record(lambda tensors: tensors, shapes)
    from transformers.core_model_loading import revert_weight_conversion

    try:
        return record(lambda tensors: revert_weight_conversion(model, tensors), shapes)
    except NotAMoveError as problem:
        raise RequestError(
            f"{type(model).__name__}: transformers converts its weights on saving in a way that cannot be undone "
            f"exactly ({problem}); merge its checkpoints on disk instead"
        ) from None


def _program(program: Program) -> Program | None:
    return program if program.steps or len(program.inputs) > 1 else None


def _disk_specs(program: Program, specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    dtypes = {specs[name].dtype for name in program.inputs}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    meta = {name: torch.empty(shape, device="meta") for name, (_, shape) in program.inputs.items()}
    return {name: TensorSpec(tuple(tensor.shape), dtype) for name, tensor in program.run(meta).items()}
