"""A new adapter in a live PeftModel: PEFT's own layers, without its walk over all pairs of modules."""

from __future__ import annotations

from typing import Any

from accelerate import init_empty_weights
from peft import LoraConfig
from peft.tuners.lora.layer import LoraLayer, MultiheadAttention, ParamWrapper
from torch import nn
from transformers.initialization import no_init_weights

from .layout import Layout
from .tree import PeftTree


def attach(peft_model: Any, name: str, config: LoraConfig, tree: PeftTree, layout: Layout) -> None:
    """What `peft_model.add_adapter` does; every value of the new layers is still to be filled in.

    PEFT compares each module with each layer that holds an adapter, freezes the base anew and activates what is active
    already: half of a fast merge's time on 210 layers. Where each target holds an adapter already, and nothing is saved
    whole, only the targets have to be visited: PEFT's own step is called for one layer of each kind, and what it put
    there is put into the others of that kind.

    Args:
        peft_model: with LoRA adapters.
        name: of the new adapter, not taken.
        config: of the new adapter.
        tree: the model's.
        layout: what the adapter will hold.
    """
    targets = _targets(peft_model, config, tree, layout)
    with no_init_weights():
        if targets is None:
            peft_model.add_adapter(name, config, low_cpu_mem_usage=True, autocast_adapter_dtype=False)
            return
        tuner = peft_model.base_model
        peft_model.peft_config[name] = config
        tuner._check_new_adapter_config(config)
        patterns: dict[Any, Any] = {}
        with init_empty_weights():
            for key, layer in targets.items():
                kind = _kind(layer, layout.lora[key].rank)
                if kind in patterns:
                    _repeat(patterns[kind], layer, name)
                    continue
                parent, _, last = key.rpartition(".")
                tuner._create_and_replace(config, name, layer, last, tuner.model.get_submodule(parent), current_key=key)
                if kind is not None and _repeatable(layer, name):
                    patterns[kind] = layer
        known = tuner.targeted_module_names
        known += [key for key in targets if key not in set(known)]


def _targets(peft_model: Any, config: LoraConfig, tree: PeftTree, layout: Layout) -> dict[str, Any] | None:
    """The layers to visit, by name; None where PEFT must find or make them itself."""
    if layout.saved or layout.tokens or layout.parameters or not layout.lora:
        return None
    tuner, layers = peft_model.base_model, dict(tree.layers)
    if any(not _is_plain(layers.get(key)) or tuner.model.get_submodule(key) is not layers[key] for key in layout.lora):
        return None
    meant = {key for key in tree.modules if key and tuner._check_target_module_exists(config, key)}
    return {key: layers[key] for key in layout.lora} if meant == set(layout.lora) else None


def _is_plain(layer: Any) -> bool:
    return isinstance(layer, LoraLayer) and not isinstance(layer, (ParamWrapper, MultiheadAttention))


def _kind(layer: Any, rank: int) -> tuple[Any, ...] | None:
    """What layers have in common that get the same new entries; None for one that PEFT may treat otherwise.

    Tensor-parallel layers get hooks, and Arrow's look at the adapters beside them.
    """
    if hasattr(layer, "lora_arrow") or getattr(layer.get_base_layer(), "_hf_tp_plan", None) is not None:
        return None
    return type(layer), layer.in_features, layer.out_features, rank


def _repeatable(layer: Any, name: str) -> bool:
    """Whether an adapter's entries in a layer say all about it: plain matrices, and no variant of LoRA."""
    matrices = (getattr(layer, key)._modules.get(name) for key in ("lora_A", "lora_B"))
    return all(type(each) is nn.Linear for each in matrices) and name not in layer.lora_variant


def _repeat(pattern: Any, layer: Any, name: str) -> None:
    """Give a layer what an adapter has in another of its kind: the entries of this name in all its dicts."""
    for key, held in vars(pattern).items():
        if type(held) is dict and not key.startswith("_") and name in held:
            entry = held[name]
            vars(layer)[key][name] = entry.copy() if isinstance(entry, (dict, list, set)) else entry
    for key, held in pattern._modules.items():
        if isinstance(held, nn.ModuleDict) and name in held._modules:
            layer._modules[key]._modules[name] = _twin(held._modules[name])


def _twin(module: Any) -> nn.Module:
    """A module like this one, with dicts of its own and the same tensors in them, which are still to be replaced."""
    twin: nn.Module = object.__new__(type(module))
    twin.__dict__ = {key: held.copy() if isinstance(held, (dict, set)) else held for key, held in vars(module).items()}
    return twin
