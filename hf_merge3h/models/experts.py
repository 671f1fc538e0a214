"""Experts as the engine sees them: whole models and adapters, both by the names of the base's tensors on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..errors import Problems, RequestError
from ..linalg.low_rank import LowRank
from .adapters.read import AdapterDeltas
from .origin import Origin
from .types import ReadBase, TensorSpec, WeightSource
from .weights.names import Group, NameMap


class WholeModel:
    """A model whose weights are all there: its task vector is what it has beyond the base.

    Args:
        source: its weights, by the base's names.
        label: what an error calls it.
        origin: where it came from.
    """

    def __init__(self, source: WeightSource, label: str, origin: Origin) -> None:
        self.label, self.origin = label, origin
        self._source = source
        self._specs = {
            name: TensorSpec(spec.shape, spec.dtype)
            for name, spec in source.specs().items()
            if spec.dtype.is_floating_point
        }

    def specs(self) -> Mapping[str, TensorSpec]:
        """All floating-point tensors: any of them may differ from the base's."""
        return self._specs

    def delta(self, name: str, base: ReadBase) -> Tensor | LowRank | None:
        """The expert's tensor less the base's."""
        origin = base()
        return self._source.load(name).to(origin.device, torch.float32) - origin

    def weight(self, name: str, base: ReadBase) -> Tensor:
        """The expert's tensor as it is."""
        return self._source.load(name).float()


class AdaptedBase:
    """An adapter as an expert of whole weights: its change of each tensor that the base has on disk.

    Args:
        adapter: its change of each parameter in memory.
        names: from the base's names in memory to those on disk.
        label: what an error calls it.

    Raises:
        RequestError: the adapter changes what the base does not have, or one side of a tie that dense weights keep.
    """

    def __init__(self, adapter: AdapterDeltas, names: NameMap, label: str) -> None:
        self.label = label
        self.adapter, self._names = adapter, names
        self._memory: dict[str, str] = {}  # names on disk that are a parameter in memory, at most renamed
        self._fused: dict[str, Group] = {}  # names on disk that are part of one
        problems = Problems(f"{label} cannot be merged into whole weights")
        for name in adapter.specs():
            if name in adapter.partial:
                problems.add(f"{adapter.partial[name]}; untie the base first (tie_word_embeddings=False)")
            elif name not in names.by_memory:
                problems.add(f"it changes {name!r}, which the base does not have")
            elif (plain := names.plain(name)) is not None:
                self._memory[plain] = name
            else:
                self._fused.update(dict.fromkeys(names.by_memory[name].disk, names.by_memory[name]))
        problems.raise_any()
        self._specs = self._find_specs()
        self._parts: tuple[Group | None, dict[str, Tensor]] = (None, {})

    @property
    def origin(self) -> Origin:
        """Where the adapter came from."""
        return self.adapter.origin

    def specs(self) -> Mapping[str, TensorSpec]:
        """What the adapter changes, by name on disk."""
        return self._specs

    def _find_specs(self) -> Mapping[str, TensorSpec]:
        changed = self.adapter.specs()
        found = {disk: changed[memory] for disk, memory in self._memory.items()}
        for disk, group in self._fused.items():
            dtype = next(spec.dtype for name in group.memory if (spec := changed.get(name)))
            found[disk] = TensorSpec(group.disk[disk].shape, dtype)
        return found

    def delta(self, name: str, base: ReadBase) -> Tensor | LowRank | None:
        """The adapter's change of one tensor; of a part of a fused one, the part of its dense change."""
        if name in self._memory:
            return self.adapter.delta(self._memory[name], base)
        group = self._fused.get(name)
        if group is None:
            return None
        if self._parts[0] is not group:  # the parts of one fused tensor are asked for one after the other
            self._parts = (group, self._split(group))
        return self._parts[1][name]

    def _split(self, group: Group) -> dict[str, Tensor]:
        changes = {}
        for name, spec in group.memory.items():
            if self.adapter.needs_base(name):
                raise RequestError(
                    f"{self.label}: its change of {name!r} depends on the base's weights (DoRA or modules_to_save), "
                    "which lie on disk in another form; merge_and_unload it and merge the whole model"
                )
            delta = self.adapter.delta(name, _unread)
            dense = delta.dense() if isinstance(delta, LowRank) else delta
            changes[name] = torch.zeros(spec.shape) if dense is None else dense.reshape(spec.shape)
        return self._names.to_disk(group, changes)

    def weight(self, name: str, base: ReadBase) -> Tensor:
        """The base's tensor with the change in it."""
        origin, delta = base(), self.delta(name, base)
        if delta is None:
            return origin
        return origin + (delta.dense() if isinstance(delta, LowRank) else delta).to(origin.device)


def disk_names(skeleton: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """The name on disk of each parameter in memory; its own name where the tensor has another form there.

    What is keyed by a tensor's name (random masks) then comes out alike for an adapter and for whole weights.

    Args:
        skeleton: the plain base, without PEFT's layers, on any device (see `plain_skeleton`); no weights are read.
        names: of parameters in memory.

    Example:
        >>> disk_names(nn.Linear(2, 3), ["weight"])
        {'weight': 'weight'}
    """
    try:
        known = NameMap(skeleton)
    except RequestError:  # transformers computes on saving, so there are no names on disk that would mean the same
        return {name: name for name in names}
    return {name: known.plain(name) or known.alias_on_disk.get(name, name) for name in names}


def fused_names(skeleton: nn.Module, specs: Mapping[str, TensorSpec]) -> dict[str, bool]:
    """Parameters that are several tensors on disk, and whether each matrix of the stack is one of these.

    transformers keeps the experts of an MoE layer in one parameter: `down_proj` [E, m, n] is E matrices on disk,
    `gate_up_proj` [E, 2m, n] is 2E.

    Args:
        skeleton: the plain base, without PEFT's layers, on any device; no weights are read.
        specs: of parameters in memory.
    """
    try:
        known = NameMap(skeleton)
    except RequestError:  # transformers computes on saving: what is in memory is what there is
        return {}
    found = {}
    for name, spec in specs.items():
        group = known.by_memory.get(name)
        if group is not None and len(group.disk) > 1:
            side = sorted(spec.shape[1:])
            each = len(group.disk) == spec.shape[0] and all(sorted(t.shape) == side for t in group.disk.values())
            found[name] = each and len(group.memory) == 1
    return found


def _unread() -> Tensor:
    raise AssertionError("a delta that needs no base asked for it")
