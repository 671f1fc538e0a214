"""From one of PEFT's layers to the change that it makes to the parameters it wraps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...linalg.low_rank import LowRank
from ..types import ReadBase, TensorSpec
from ..weights.quantised import is_quantised

#: What holds a change: LoRA factors, LoRA on a bare parameter, `lora_bias`, a whole copy of the module
#: (`modules_to_save`), rows of an embedding (`trainable_token_indices`), a tensor that the adapter's file brings
#: for the base itself, or what PEFT's own merging gives.
Kind = Literal["lora", "parameter", "bias", "saved", "tokens", "replaced", "merged"]


class NoDeltaError(Exception):
    """A layer's change cannot be written as a delta; the message says why."""


@dataclass(frozen=True)
class Part:
    """One parameter's change.

    Attributes:
        name: the parameter, as the clean model calls it.
        module: the clean name of the module that PEFT wrapped.
        kind: what holds the change.
        spec: shape of the parameter, dtype of the change, rank where it is a LowRank.
        needs_base: `read` asks for the base's values.
        read: gives the change, float32.
        factor_rank: where `read` gives a dense tensor of bounded rank, that bound (of a convolution's kernel, in its
            flattened form [out, in * k]).
    """

    name: str
    module: str
    kind: Kind
    spec: TensorSpec
    needs_base: bool
    read: Callable[[ReadBase], Tensor | LowRank]
    factor_rank: int | None = None


def merged_parts(
    name: str, layer: Any, adapter: str, *, only: tuple[str, ...] = (), additive: bool = False
) -> Iterator[Part]:
    """What PEFT's own merging changes, worked out in float64 on a copy of this one layer.

    Args:
        name: clean name of the module.
        layer: PEFT's layer around it.
        adapter: which adapter.
        only: names of parameters that can change; empty for all of the module's.
        additive: the change does not depend on the base, whose values are then not asked for.
    """
    module = layer.get_base_layer()
    if is_quantised(module):
        raise NoDeltaError(f"it needs the base's values, and {name!r} is quantised")
    prefix = f"{name}." if name else ""
    for key, parameter in module.named_parameters():
        if not only or key in only:
            spec = TensorSpec(tuple(parameter.shape), _dtype(layer, adapter, parameter.dtype))
            read = _Merge(layer, adapter, key, additive)
            bound = _rank_bound(layer, adapter, spec.shape) if additive else None
            yield Part(prefix + key, name, "merged", spec, not additive, read, bound)


@dataclass(frozen=True)
class _Merge:
    layer: Any
    adapter: str
    key: str
    additive: bool

    def __call__(self, base: ReadBase) -> Tensor:
        module = self.layer.get_base_layer()
        before = {
            key: torch.zeros(parameter.shape, dtype=torch.float64) for key, parameter in module.named_parameters()
        }
        if not self.additive:
            before[self.key] = base().cpu().double()
        memo: dict[int, Any] = {
            id(parameter): nn.Parameter(before[key].clone(), requires_grad=False)
            for key, parameter in module.named_parameters()
        }
        for tensor in (*self.layer.parameters(), *self.layer.buffers()):
            if id(tensor) not in memo:
                value = tensor.detach().cpu()
                value = value.double() if value.is_floating_point() else value
                memo[id(tensor)] = (
                    nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
                )
        twin = copy.deepcopy(self.layer, memo).requires_grad_(False)
        twin.merge(safe_merge=False, adapter_names=[self.adapter])
        after = twin.get_base_layer().get_parameter(self.key)
        return (after.detach().double() - before[self.key]).float()


def _rank_bound(layer: Any, adapter: str, shape: tuple[int, ...]) -> int | None:
    """The rank that a change cannot exceed, for the kinds whose layers tell it."""
    power = {"AdaLoraLayer": 1, "VeraLayer": 1, "LoHaLayer": 2}  # LoHa: a product, entry by entry, of two of rank r
    found = [power[kind.__name__] for kind in type(layer).__mro__ if kind.__name__ in power]
    if not found or len(shape) < 2:
        return None
    return min(int(layer.r[adapter]) ** found[0], shape[0], math.prod(shape[1:]))


def _dtype(layer: Any, adapter: str, default: torch.dtype) -> torch.dtype:
    for key, tensor in layer.named_parameters():
        if f".{adapter}" in f".{key}" and tensor.is_floating_point():
            return tensor.dtype
    return default


def saved_parts(name: str, wrapper: Any, adapter: str) -> Iterator[Part]:
    """What `modules_to_save` changes: every parameter of the copy, less the base's."""
    if adapter not in wrapper.modules_to_save:
        return
    original, copied = wrapper.original_module, wrapper.modules_to_save[adapter]
    if any(is_quantised(module) for module in original.modules()):
        raise NoDeltaError(f"modules_to_save needs the base's values, and {name!r} is quantised")
    parameters, stored = dict(copied.named_parameters(remove_duplicate=False)), copied.state_dict()
    for key, buffer in original.named_buffers():
        if key in stored and (buffer.is_meta or not torch.equal(buffer, stored[key].to(buffer))):
            raise NoDeltaError(
                f"modules_to_save of {name!r}: its buffer {key!r} differs from the base's, and none can merge it"
            )
    prefix = f"{name}." if name else ""
    for key, parameter in parameters.items():
        spec = TensorSpec(tuple(parameter.shape), parameter.dtype)
        yield Part(prefix + key, name, "saved", spec, True, _Minus(parameter.detach()))


@dataclass(frozen=True)
class _Minus:
    """A whole tensor, less the base's."""

    value: Tensor

    def __call__(self, base: ReadBase) -> Tensor:
        before = base()
        return self.value.to(before.device, torch.float32) - before.float()


def token_parts(name: str, layer: Any, adapter: str) -> Iterator[Part]:
    """What trained tokens change: a few rows of the embedding, so a product with a one-hot matrix."""
    if adapter not in layer.trainable_tokens_delta:
        return
    rows = torch.as_tensor(layer.token_indices[adapter], dtype=torch.long)
    if len(rows.unique()) != len(rows):
        raise NoDeltaError(f"trainable_token_indices of {name!r} name a token twice")
    values = layer.trainable_tokens_delta[adapter].detach()
    shape = tuple(layer.base_layer.weight.shape)
    low = 4 * len(rows) <= min(shape)

    def read(base: ReadBase) -> Tensor | LowRank:
        before = base().float()
        index = rows.to(before.device)
        change = values.to(before) - before.index_select(0, index)
        if not low:
            return torch.zeros_like(before).index_copy_(0, index, change)
        one_hot = torch.zeros(shape[0], len(rows), device=before.device)
        one_hot[index, torch.arange(len(rows), device=before.device)] = 1.0
        return LowRank(one_hot, change)

    spec = TensorSpec(shape, values.dtype, len(rows) if low else None)
    bound = min(len(rows), *shape)
    yield Part(f"{name}.weight" if name else "weight", name, "tokens", spec, True, read, bound)


def replaced_part(name: str, module: str, value: Tensor, inner: Part | None) -> Part:
    """A tensor of the base that the adapter's file brings along (`bias="all"`, saved embeddings).

    The adapter's own change, if there is one, is on top of it.
    """

    def read(base: ReadBase) -> Tensor:
        change = _Minus(value)(base)
        if inner is None:
            return change
        more = inner.read(lambda: value.float())
        return change + (more.dense() if isinstance(more, LowRank) else more)

    kind: Kind = "replaced" if inner is None else inner.kind
    return Part(name, module, kind, TensorSpec(tuple(value.shape), value.dtype), True, read)
