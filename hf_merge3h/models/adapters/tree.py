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


def named_tensors(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a layer, those of the module that it wraps left out."""
    inner = _wrapped(layer)

    def walk(prefix: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        for tensors in (module._parameters, module._buffers):
            yield from ((prefix + key, tensor) for key, tensor in tensors.items() if tensor is not None)
        for key, child in module._modules.items():
            if child is not None and child is not inner:
                yield from walk(f"{prefix}{key}.", child)

    return walk("", layer)
