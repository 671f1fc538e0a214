"""What of a live model lies on disk: which tensors, which of them are one and the same, under which name."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor, nn

from ...errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Stored:
    """The tensors of a live model that saving it stores.

    Attributes:
        tensors: each one once, by the name in memory that `save_pretrained` keeps; parameters, then buffers.
        buffers: the names among them that are persistent buffers.
        aliases: each further name of a tied tensor, and the name that is kept.
    """

    tensors: Mapping[str, Tensor]
    buffers: frozenset[str]
    aliases: Mapping[str, str]


def is_pretrained(model: object) -> TypeGuard[PreTrainedModel]:
    """Whether this is one of transformers' models; imports nothing (such a model's class is imported already)."""
    modeling = sys.modules.get("transformers.modeling_utils")
    return modeling is not None and isinstance(model, modeling.PreTrainedModel)


def stored(model: nn.Module) -> Stored:
    """Find the tensors that lie on disk, and the ties among them.

    Raises:
        RequestError: two parameters overlap in memory without being one.
    """
    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ()) if is_pretrained(model) else set()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(_persistent_buffers(model))
    everything: dict[str, Tensor] = {
        name: tensor for name, tensor in [*parameters.items(), *buffers.items()] if name not in ignored
    }
    aliases: dict[str, str] = {}
    for names in _shared(everything):
        kept = _kept_name(model, {name: everything[name] for name in names})
        aliases.update({name: kept for name in names if name != kept})
    tensors = {name: tensor for name, tensor in everything.items() if name not in aliases}
    return Stored(tensors, frozenset(tensors) & frozenset(buffers), aliases)


def _persistent_buffers(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    for path, module in model.named_modules(remove_duplicate=False):
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield (f"{path}.{name}" if path else name), buffer


def _shared(tensors: Mapping[str, Tensor]) -> Iterable[list[str]]:
    """Lists of names that stand for the same memory."""
    storages: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        storages.setdefault(_storage(tensor), []).append(name)
    for names in storages.values():
        places: dict[tuple, list[str]] = {}
        for name in names:
            places.setdefault(_place(tensors[name]), []).append(name)
        _refuse_overlaps(tensors, [same[0] for same in places.values()])
        yield from (same for same in places.values() if len(same) > 1)


def _storage(tensor: Tensor) -> object:
    if tensor.device.type == "meta" or not tensor.numel():
        return id(tensor)  # no memory: only the same object is the same tensor
    try:
        return tensor.device, tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # subclasses that wrap other tensors
        return id(tensor)


def _place(tensor: Tensor) -> tuple:
    return tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _refuse_overlaps(tensors: Mapping[str, Tensor], names: list[str]) -> None:
    ends: list[tuple[int, int, str]] = []
    for name in names if len(names) > 1 else []:
        tensor = tensors[name]
        last = sum((side - 1) * stride for side, stride in zip(tensor.shape, tensor.stride(), strict=True))
        start = int(tensor.storage_offset()) * tensor.element_size()
        ends.append((start, start + (int(last) + 1) * tensor.element_size(), name))
    ends.sort()
    for (_, end, name), (start, _, other) in itertools.pairwise(ends):
        if start < end:
            raise RequestError(
                f"parameters {name!r} and {other!r} overlap in memory without being the same tensor: a merge would "
                "write one over the other; clone one of them first"
            )


def _kept_name(model: nn.Module, tied: dict[str, Tensor]) -> str:
    """The name under which `save_pretrained` stores a tied tensor: transformers itself is asked."""
    first = next(iter(tied))
    if not is_pretrained(model):
        return first
    # https://github.com/huggingface/transformers/blob/main/src/transformers/modeling_utils.py
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    try:
        kept = remove_tied_weights_from_state_dict({name: tensor.detach() for name, tensor in tied.items()}, model)
    except RuntimeError:  # tied by hand, unknown to the model's class: save_pretrained would refuse it
        return first
    return next((name for name in tied if name in kept), first)
