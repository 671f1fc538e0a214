"""Where PEFT's layers sit in a model, under the names that the model had before PEFT came."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, TrainableTokensWrapper
from torch import Tensor, nn


@dataclass
class PeftTree:
    """A model with PEFT's layers looked through.

    Attributes:
        layers: PEFT's layers and wrappers, by the clean name of the module that each one wraps; outer ones first.
        modules: the clean model's modules, by name (as `named_modules` without PEFT).
        parameters: its parameters, by every name they have (tied ones appear more than once).
    """

    layers: list[tuple[str, nn.Module]] = field(default_factory=list)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    ties: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> PeftTree:
        """Walk a model (for a PeftModel, give it `get_base_model()`)."""
        tree = cls()
        tree._walk("", model)
        names: dict[int, list[str]] = {}
        for name, parameter in tree.parameters.items():
            names.setdefault(id(parameter), []).append(name)
        for group in names.values():
            tree.ties.update(dict.fromkeys(group, tuple(group)))
        return tree

    def _walk(self, name: str, module: nn.Module) -> None:
        inner = _wrapped(module)
        if inner is not None:
            self.layers.append((name, module))
            self._walk(name, inner)
            return
        self.modules[name] = module
        prefix = f"{name}." if name else ""
        for key, parameter in module._parameters.items():
            if parameter is not None:
                self.parameters[prefix + key] = parameter
        for key, child in module._modules.items():
            if child is not None:
                self._walk(prefix + key, child)

    def canonical(self, name: str) -> str:
        """The name under which `named_parameters` lists a parameter (its first, where it is tied)."""
        return self.ties.get(name, (name,))[0]

    def owner(self, name: str) -> tuple[str, nn.Module]:
        """The module, and its name, that holds the parameter called `name`."""
        module = name.rpartition(".")[0]
        return module, self.modules[module]


def _wrapped(module: Any) -> Any:
    """What a layer of PEFT stands in for; None for a module that is none of PEFT's."""
    if isinstance(module, TrainableTokensWrapper):
        return module.token_adapter.base_layer
    if isinstance(module, AuxiliaryTrainingWrapper):
        return module.original_module
    if isinstance(module, BaseTunerLayer):
        return cast(Any, module).base_layer
    return None


def named_tensors(layer: nn.Module, adapter: str) -> Iterator[tuple[str, Tensor]]:
    """An adapter's parameters and buffers in a layer: those with its name in theirs, the wrapped module's left out."""
    return _named(layer, adapter, "", skip=_wrapped(layer))


def adapter_parameters(model: nn.Module, adapter: str) -> dict[str, nn.Parameter]:
    """An adapter's parameters in a PeftModel, by the names that `named_parameters` gives them (tied ones once)."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for name, tensor in _named(model, adapter, ""):
        if isinstance(tensor, nn.Parameter):
            found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


def _named(
    module: nn.Module, adapter: str, prefix: str, inside: bool = False, skip: nn.Module | None = None
) -> Iterator[tuple[str, Tensor]]:
    for tensors in (module._parameters, module._buffers):
        for key, tensor in tensors.items():
            if tensor is not None and (inside or key == adapter):
                yield prefix + key, tensor
    children = module._modules
    if not inside and adapter in children and isinstance(module, nn.ModuleDict):  # the others are other adapters'
        children = {adapter: children[adapter]}
    for key, child in children.items():
        if child is not None and child is not skip:
            yield from _named(child, adapter, f"{prefix}{key}.", inside or key == adapter, skip)


def part_names(model: nn.Module) -> set[str]:
    """What the names of a model's modules and parameters are made of, between the dots."""
    found: set[str] = set()
    pending, seen = [model], set()
    while pending:
        module = pending.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        found.update(module._parameters, module._modules)
        pending += [child for child in module._modules.values() if child is not None]
    return found
