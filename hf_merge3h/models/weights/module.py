"""A live model's weights, by their names on disk: read one by one, replaced in place all or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ..types import TensorSpec
from .checks import check_live
from .names import Group, NameMap
from .ties import stored


class LiveModule:
    """A WeightSource over a module in memory, in names of the disk.

    Args:
        model: the module; it is only changed by `commit`.
        label: how errors call it.
        names: another model's names, where this one is read in the terms of that one (see `live_expert`).

    Raises:
        RequestError: see `check_live`, and parameters that overlap in memory.

    Example:
        >>> live = LiveModule(nn.Linear(2, 2, bias=False))
        >>> live.commit({"weight": torch.eye(2)})
        >>> live.load("weight").tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, model: nn.Module, label: str = "base", names: NameMap | None = None) -> None:
        check_live(model, label)
        self.model, self.label = model, label
        self.held = stored(model)
        self.names = NameMap(model, self.held) if names is None else names
        self._tensors: dict[str, Tensor] = dict(self.held.tensors)
        self._tensors.update({alias: self.held.tensors[kept] for alias, kept in self.held.aliases.items()})
        #: Names on disk of tensors that the model whose names these are does not have.
        self._further = {
            self.names.alias_on_disk.get(name, name): name
            for name in self.held.tensors
            if name not in self.names.by_memory
        }

    @cached_property
    def _constant(self) -> frozenset[str]:
        return frozenset(
            name
            for group in self.names.groups
            for name in group.disk
            if any(each in self.held.buffers or not self._tensors[each].is_floating_point() for each in group.memory)
        )

    def specs(self) -> dict[str, TensorSpec]:
        """The floating-point parameters; what must be equal in every expert is in `constants`."""
        return {name: spec for name, spec in self._all_specs().items() if name not in self._constant}

    def constants(self) -> dict[str, Tensor]:
        """Persistent buffers and integer tensors: equal in every expert, or an error."""
        return {name: self.load(name) for name in self.names.by_disk if name in self._constant}

    def load(self, name: str) -> Tensor:
        """One tensor in its storage dtype and place; it may share memory with the model: never write to it."""
        if name in self._further:
            return self._tensors[self._further[name]].detach()
        group = self.names.by_disk[name]
        return self.names.pick(group, {each: self._tensors[each].detach() for each in group.memory}, [name])[name]

    @property
    def aliases(self) -> Mapping[str, str]:
        """Further names that tied tensors could have on disk, and the names that they have."""
        return self.names.aliases

    def without(self, names: Iterable[str]) -> LiveModule:
        """This source, without these tensors that only it has (see `live_expert`); the model keeps them."""
        for name in names:
            del self._further[name]
        return self

    @property
    def vocabulary(self) -> int | None:
        """Rows of the input embedding, where the model has one that says so."""
        try:
            embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        except (AttributeError, NotImplementedError):
            return None
        return embedding.weight.shape[0] if isinstance(embedding, nn.Embedding) else None

    def commit(
        self, merged: dict[str, Tensor], *, dtype: torch.dtype | None = None, then: Callable[[], None] | None = None
    ) -> None:
        """Replace weights in place, all or none; Parameter objects, ties, devices and requires_grad stay.

        The tensors become the model's own where they can: hand over fresh ones. The dict is emptied on the way, so
        that no more than the old and the new weights are in memory together.

        Args:
            merged: new contents by name on disk, in the shapes of `specs`; what is left out stays as it is.
            dtype: what the whole model (parameters and persistent floating-point buffers) is converted to; None
                keeps the dtype of each.
            then: what belongs to it: if it fails (or Ctrl-C comes), the weights and the model's attributes go back too.

        Raises:
            RequestError: a name or shape is not the model's. Nothing has been changed then, or after any other error.
        """
        specs = self._all_specs()
        for name, tensor in merged.items():
            if name not in specs or tuple(tensor.shape) != specs[name].shape:
                expected = f"[{', '.join(map(str, specs[name].shape))}]" if name in specs else "no such tensor"
                raise RequestError(f"{self.label}: {name!r} of shape {list(tensor.shape)}: expected {expected}")
        replacements: dict[str, Tensor] = {}
        own = {tensor.untyped_storage().data_ptr() for tensor in self._tensors.values()}
        for group in self.names.groups:
            for name, tensor in self._new_memory(group, merged, dtype).items():
                old = self._tensors[name]
                replacements[name] = _fresh(tensor, old, dtype if old.is_floating_point() else None, own)
        self._swap(replacements, then)

    def _all_specs(self) -> dict[str, TensorSpec]:
        found = {}
        for group in self.names.groups:
            if group.program is None:  # its own shape, where the names are another model's
                tensor = self._tensors[next(iter(group.memory))]
                found[next(iter(group.disk))] = TensorSpec(tuple(tensor.shape), tensor.dtype)
            else:
                dtype = self._tensors[next(iter(group.memory))].dtype
                found.update({name: TensorSpec(spec.shape, dtype) for name, spec in group.disk.items()})
        for name, memory in self._further.items():
            found[name] = TensorSpec(tuple(self._tensors[memory].shape), self._tensors[memory].dtype)
        return found

    def _new_memory(self, group: Group, merged: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
        """New contents of a group by name in memory; empty where nothing of it changes."""
        old = {name: self._tensors[name].detach() for name in group.memory}
        if merged.keys().isdisjoint(group.disk):
            return {name: t for name, t in old.items() if dtype and t.is_floating_point() and t.dtype != dtype}
        kept = self.names.pick(group, old, [name for name in group.disk if name not in merged])
        given = {name: merged.pop(name) for name in group.disk if name in merged}
        if group.program is not None:  # convert before fusing: the parts are smaller in the storage dtype
            target = dtype or next(iter(old.values())).dtype
            given = {name: tensor.to(target) for name, tensor in given.items()}
        return self.names.to_memory(group, {**kept, **given})

    def _swap(self, replacements: Mapping[str, Tensor], then: Callable[[], None] | None) -> None:
        """Put new contents into the Parameter and buffer objects, every one that shares the replaced memory."""
        holders: dict[str, dict[int, Tensor]] = {name: {} for name in replacements}
        objects: dict[str, Tensor] = dict(self.model.named_parameters(remove_duplicate=False))
        objects.update(self.model.named_buffers(remove_duplicate=False))
        for name, tensor in objects.items():
            kept = self.held.aliases.get(name, name)
            if kept in holders:
                holders[kept][id(tensor)] = tensor
        undo: list[Callable[[], None]] = [_attributes(self.model)]
        try:
            for name, new in replacements.items():
                for holder in holders[name].values():
                    undo.append(_restorer(holder))
                    if holder.grad is not None and holder.dtype != new.dtype:
                        holder.grad = None  # a gradient has the dtype of its parameter
                    _replace(holder, new)
            if then is not None:
                then()
        except BaseException:  # Ctrl-C too
            _roll_back(undo)
            raise


def _roll_back(undo: list[Callable[[], None]]) -> None:
    while undo:
        try:
            undo[-1]()
            undo.pop()
        except KeyboardInterrupt:  # an impatient second one; the first is on its way to the caller
            continue


def _replace(holder: Tensor, new: Tensor) -> None:
    holder.data = new


def _attributes(model: nn.Module) -> Callable[[], None]:
    attributes = vars(model).copy()

    def restore() -> None:
        vars(model).clear()
        vars(model).update(attributes)

    return restore


def _restorer(holder: Tensor) -> Callable[[], None]:
    data, grad = holder.data, holder.grad

    def restore() -> None:
        holder.data = data
        holder.grad = grad

    return restore


def _fresh(tensor: Tensor, old: Tensor, dtype: torch.dtype | None, taken: set[int]) -> Tensor:
    """The tensor in the old one's device and layout, in memory that nothing else of the model has."""
    tensor = tensor.detach().to(device=old.device, dtype=dtype or old.dtype)
    dense = old.detach().to(dtype=tensor.dtype, device="meta")
    layout = torch.empty_like(dense, memory_format=torch.preserve_format).stride()
    if tensor.stride() != layout or tensor._is_view() or tensor.untyped_storage().data_ptr() in taken:
        tensor = torch.empty_strided(tensor.shape, layout, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
    taken.add(tensor.untyped_storage().data_ptr())
    return tensor


def live_expert(model: nn.Module, base: LiveModule, label: str) -> LiveModule:
    """A live model as an expert of a live base, in the base's names on disk.

    Where both have the same parameters in memory the base's names count, for two models of one class may have been
    loaded from checkpoints that name their tensors differently.

    Raises:
        RequestError: see `check_live`.
    """
    expert = LiveModule(model, label)
    same = all(
        name in expert._tensors and (group.program is None or tuple(expert._tensors[name].shape) == spec.shape)
        for group in base.names.groups
        for name, spec in group.memory.items()
    )
    return LiveModule(model, label, base.names) if same else expert
