"""Experts of tiny models, whole and as adapters, for the engine's tests."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import hf_merge3h
from hf_merge3h.models.adapters.read import read_adapter
from hf_merge3h.models.adapters.tree import PeftTree
from tests.models import tiny

ROLES = ("helpfulness", "honesty", "harmlessness")
METHODS = tuple(method.name for method in hf_merge3h.list_methods())


def expert_count(method: str) -> int:
    low, high = hf_merge3h.get_method(method).experts
    return max(low, min(3, high or 3))


def whole_experts(base: nn.Module, count: int = 3, spread: float = 0.01) -> list[nn.Module]:
    """Copies of a model whose every parameter has moved a little."""
    experts = []
    for seed in range(count):
        expert = copy.deepcopy(base)
        generator = torch.Generator().manual_seed(100 + seed)
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter += spread * torch.randn(parameter.shape, generator=generator)
        experts.append(expert)
    return experts


def peft_model(base: nn.Module, adapters: dict[str, dict[str, Any]], seed: int = 0) -> Any:
    """A PeftModel over a copy of the base, with LoRA adapters whose every tensor is random."""
    model: Any = None
    with quiet():
        for name, options in adapters.items():
            config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options})
            if model is None:
                model = get_peft_model(copy.deepcopy(base), config, adapter_name=name)
            else:
                model.add_adapter(name, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def deltas(model: Any, adapter: str) -> dict[str, torch.Tensor]:
    found = read_adapter(model, adapter)
    base = PeftTree.of(model.get_base_model()).parameters
    dense = {}
    for name in found.specs():
        delta = found.delta(name, lambda name=name: base[name])
        dense[name] = delta if isinstance(delta, torch.Tensor) else delta.dense()
    return dense


def three_adapters(base: nn.Module) -> Any:
    return peft_model(base, {role: {"r": rank} for role, rank in zip(ROLES, (4, 3, 2), strict=True)})


@contextmanager
def quiet() -> Iterator[None]:
    """What PEFT and the growth of a sum warn of is not what a test is about that enters here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def llama(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return tiny.llama(**options).eval()
