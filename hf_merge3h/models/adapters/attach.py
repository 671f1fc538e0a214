"""A new adapter in a live PeftModel: PEFT's own layers, without its walk over all pairs of modules."""

from __future__ import annotations

from typing import Any

from accelerate import init_empty_weights
from peft import LoraConfig
from peft.tuners.lora.layer import LoraLayer, MultiheadAttention, ParamWrapper
from transformers.initialization import no_init_weights

from .layout import Layout
from .tree import PeftTree


def attach(peft_model: Any, name: str, config: LoraConfig, tree: PeftTree, layout: Layout) -> None:
    """What `peft_model.add_adapter` does; every value of the new layers is still to be filled in.

    PEFT compares each module with each layer that holds an adapter, freezes the base anew and activates what is active
    already: half of a fast merge's time on 210 layers. Where each target holds an adapter already, and nothing is saved
    whole, only the targets have to be visited, and PEFT's own step is called for each.

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
        with init_empty_weights():
            for key, layer in targets.items():
                parent, _, last = key.rpartition(".")
                tuner._create_and_replace(config, name, layer, last, tuner.model.get_submodule(parent), current_key=key)
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
