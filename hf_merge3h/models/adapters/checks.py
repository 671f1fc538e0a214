"""Which adapters have an exact delta, and in what words the others are refused."""

from __future__ import annotations

import math
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from ...errors import Problems, RequestError, bad
from .tree import PeftTree, named_tensors

#: Tuners whose change of the weights does not depend on them.
ADDITIVE = frozenset({"LOHA", "LOKR", "ADALORA", "VERA", "RANDLORA", "GRALORA", "FOURIERFT", "WAVEFT", "C3A"})
#: Tuners that scale, rotate or replace the weights: their delta is the merged weight less the base's.
MERGING = frozenset({"IA3", "OFT", "BOFT", "HRA", "HIRA", "MISS", "DELORA", "LN_TUNING"})

# Initialisations that change the base's own weights when the adapter is made, or loaded again.
_MOVES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")


def check_config(label: str, config: Any, *, loaded: bool) -> None:
    """Refuse an adapter whose kind has no exact delta.

    Args:
        label: how the user named the adapter.
        config: its PeftConfig.
        loaded: PEFT has put it into a live model already (false: it is read from a folder).

    Raises:
        RequestError: with the reason, and what to do about it.
    """
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning or kind == "ADAPTION_PROMPT":
        raise RequestError(
            f"adapter {label!r}: {kind} adds to the model's input and changes no weights: nothing to merge"
        )
    if kind not in ADDITIVE | MERGING | {"LORA", "TRAINABLE_TOKENS"}:
        raise RequestError(
            f"adapter {label!r}: no dense delta is known for {kind}; merge it into its base first "
            "(merge_and_unload) and give that whole model as the expert"
        )
    start = str(getattr(config, "init_lora_weights", "")).lower()
    if start.startswith(_MOVES_BASE):
        raise RequestError(
            f"adapter {label!r}: init_lora_weights={start!r} changed the base's own weights when the adapter was made, "
            "so it is no change of the plain base; convert it first with "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    if getattr(config, "layer_replication", None):
        raise RequestError(f"adapter {label!r}: layer_replication makes another architecture of the base; refused")
    bias = getattr(config, "bias", "none")
    if loaded and bias != "none":
        raise RequestError(
            f"adapter {label!r}: trained with bias={bias!r}, so loading it has overwritten the base's own biases and "
            "their change cannot be told any more; give the adapter by its folder or Hub id, on a freshly loaded base"
        )


def check_peft_model(model: Any) -> PeftTree:
    """Refuse what is no PeftModel, one that was compiled, and one whose adapters are merged into its weights.

    Returns:
        Where its layers sit.

    Raises:
        RequestError: with what was found instead, and what to do.
    """
    if not isinstance(model, PeftModel):
        raise bad("peft_model", type(model).__name__, "a PeftModel (PeftMixedModel is not supported)")
    tree = PeftTree.of(model.get_base_model())
    for name, module in tree.modules.items():
        if type(module).__name__ == "OptimizedModule":
            raise RequestError(
                f"peft_model: {name or 'the base'!r} was compiled by torch.compile before the adapters were put in, "
                "which changes all names; put them into the model that was compiled (its _orig_mod)"
            )
    for name, layer in tree.layers:
        merged = getattr(layer, "merged_adapters", None)
        if merged:
            raise RequestError(
                f"adapters {', '.join(map(repr, merged))} are merged into the weights of {name!r}, so they are not the "
                "base's; call unmerge_adapter() on the model first"
            )
    return tree


def check_finite(label: str, layers: list[tuple[str, nn.Module]], adapter: str) -> None:
    """Raise a RequestError that lists the adapter's tensors with NaN or infinite entries."""
    problems = Problems(f"adapter {label!r} has entries that are not finite")
    for name, layer in layers:
        for key, tensor in named_tensors(layer, adapter):
            if not finite(tensor):
                problems.add(f"{name}.{key}" if name else key)
    problems.raise_any()


def finite(tensor: Tensor) -> bool:
    """Whether all entries are finite (what has none, or is no floating-point tensor, counts as such)."""
    if tensor.is_meta or not tensor.is_floating_point():
        return True
    # A finite sum has finite terms, and takes a third of the time: hundreds of small tensors are asked.
    return math.isfinite(tensor.detach().sum().item()) or bool(torch.isfinite(tensor).all())
