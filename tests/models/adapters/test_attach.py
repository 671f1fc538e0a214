"""A merged adapter's layers are those that PEFT would have made, entry by entry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from hf_merge3h.linalg.low_rank import LowRank
from hf_merge3h.models.adapters.read import read_adapter
from hf_merge3h.models.adapters.tree import PeftTree, adapter_parameters, named_tensors, part_names
from hf_merge3h.models.adapters.write import write_adapter

from . import zoo

TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]


def two_adapters(**options: Any) -> Any:
    model = get_peft_model(zoo.llama(), LoraConfig(r=3, target_modules=TARGETS, **options), adapter_name="one")
    model.add_adapter("two", LoraConfig(r=2, target_modules=TARGETS, **options))
    return model


def entries(layer: nn.Module, adapter: str) -> dict[str, Any]:
    """What a layer's dicts hold of an adapter."""
    found: dict[str, Any] = {}
    for key, held in vars(layer).items():
        if isinstance(held, dict) and adapter in held:
            found[key] = held[adapter]
    for key, child in layer.named_children():
        if isinstance(child, nn.ModuleDict) and adapter in child:
            module: Any = child[adapter]
            shapes = {name: (value.shape, value.dtype, value.device) for name, value in module.named_parameters()}
            plain = {name: value for name, value in vars(module).items() if isinstance(value, (int, float, str))}
            found[key] = (type(module), plain, shapes)
    return found


@pytest.mark.parametrize("options", [{}, {"lora_dropout": 0.1}, {"use_rslora": True}], ids=str)
def test_the_layers_of_one_kind_are_as_pefts_own(options: dict[str, Any]) -> None:
    model = two_adapters(**options)
    one = read_adapter(model, "one")
    deltas = {name: one.delta(name, lambda: None) for name in one.specs()}  # type: ignore[arg-type, return-value]
    write_adapter(model, "merged", deltas, sources=[one])  # type: ignore[arg-type]

    expected = two_adapters(**options)
    expected.add_adapter("merged", model.peft_config["merged"])
    found = dict(PeftTree.of(model.get_base_model()).layers)
    wanted = dict(PeftTree.of(expected.get_base_model()).layers)
    assert list(found) == list(wanted)
    for name, layer in wanted.items():
        assert entries(found[name], "merged") == entries(layer, "merged"), name
    assert set(model.base_model.targeted_module_names) == set(expected.base_model.targeted_module_names)


def test_layers_of_one_kind_share_nothing() -> None:
    model = two_adapters()
    one = read_adapter(model, "one")
    write_adapter(model, "merged", {name: one.delta(name, lambda: None) for name in one.specs()}, sources=[one])  # type: ignore[arg-type, misc, return-value]
    layers = [layer for _, layer in PeftTree.of(model.get_base_model()).layers]
    for key in ("lora_A", "lora_B", "lora_dropout"):
        modules = [getattr(layer, key)["merged"] for layer in layers]
        assert len({id(module) for module in modules}) == len(layers)
        for attribute in ("_parameters", "_forward_hooks", "_modules"):
            assert len({id(getattr(module, attribute)) for module in modules}) == len(layers)
    before = layers[1].lora_A["merged"].weight.detach().clone()
    with torch.no_grad():
        layers[0].lora_A["merged"].weight.zero_()
    assert torch.equal(layers[1].lora_A["merged"].weight, before)


def test_merged_adapters_can_be_trained_and_deleted() -> None:
    model = two_adapters()
    one = read_adapter(model, "one")
    shapes = {name: spec.shape for name, spec in one.specs().items()}
    deltas = {name: LowRank(torch.ones(m, 1), torch.ones(1, n)) for name, (m, n) in shapes.items()}
    write_adapter(model, "merged", deltas, sources=[one])
    model.set_adapter("merged")
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    layers = [layer for _, layer in PeftTree.of(model.get_base_model()).layers]
    assert all(layer.lora_A["merged"].weight.grad is not None for layer in layers)
    with pytest.warns(UserWarning, match="was active"):
        model.delete_adapter("merged")
    assert not any("merged" in name for name, _ in model.named_parameters())


def test_an_adapters_tensors_are_those_with_its_name_in_theirs() -> None:
    model = get_peft_model(
        zoo.llama(),
        LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], use_dora=True, modules_to_save=["lm_head"]),
        adapter_name="one",
    )
    model.add_adapter("two", LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    for adapter in ("one", "two"):
        wanted = {name: each for name, each in model.named_parameters() if f".{adapter}." in f".{name}."}
        found = adapter_parameters(model, adapter)
        assert list(found) == list(wanted)
        assert all(found[name] is wanted[name] for name in wanted)
        layers = PeftTree.of(model.get_base_model()).layers
        seen = {id(each) for _, layer in layers for _, each in named_tensors(layer, adapter)}
        assert seen >= {id(each) for each in wanted.values()}
    assert part_names(model) >= {part for name, _ in model.named_parameters() for part in name.split(".")}
