"""Where the adapters of a PeftModel were loaded from. PEFT forgets it; `load_adapter` is made to note it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import MergeError
from ..hub import ResolvedSource, resolve
from ..origin import Origin, origin_of
from ..types import HubOptions
from ..weights.headers import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_header

_NOTE = "merge_3h_loaded_from"  # on the adapter's config, which goes when the adapter goes; never saved with it
#: What in a LoRA's config decides what its tensors mean.
_MEANING = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "lora_bias")
_SAMPLE = 64  # entries of each tensor that tell whether it was changed since it was loaded


def note(model: Any, adapter: str, source: Any, options: Mapping[str, Any]) -> None:
    """Note where an adapter has just been loaded from; does nothing where that cannot be told.

    Args:
        model: the PeftModel.
        adapter: its name in there.
        source: the folder or Hub id that `load_adapter` was given.
        options: its other arguments; of the Hub's, `revision`, `subfolder` and `cache_dir` count.
    """
    local = Path(source).expanduser()
    below, revision, cache = (options.get(name) for name in ("subfolder", "revision", "cache_dir"))
    try:
        if local.is_dir():
            found = resolve(str(local / below) if below else str(source), kind="adapter")
        else:
            found = resolve(
                str(source), subfolder=below, revision=revision, cache_dir=cache, kind="adapter", local_files_only=True
            )
    except (MergeError, OSError):
        return
    setattr(model.peft_config[adapter], _NOTE, found)


def loaded_origin(model: Any, adapter: str, plain: Origin, hub: HubOptions) -> Origin:
    """The origin of a loaded adapter.

    Where it still holds what its file does, told from a few entries of each tensor, it counts as that file. Where it
    was changed since (trained, rescaled), its file's card is known, and its weights are in memory only.

    Args:
        model: the PeftModel.
        adapter: its name in there.
        plain: what is known of it otherwise.
        hub: how the Hub is reached, should its card not be here.
    """
    found: ResolvedSource | None = getattr(model.peft_config[adapter], _NOTE, None)
    if found is None or not (found.folder / ADAPTER_WEIGHTS).is_file():
        return plain
    origin = origin_of(found, [found.folder / ADAPTER_WEIGHTS], hub)
    if _holds(model, adapter, found.folder):
        return origin
    return replace(plain, given=origin.given, card=origin.card, card_known=origin.card_known)


def _holds(model: Any, adapter: str, folder: Path) -> bool:
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        return _means(model, adapter, config) and _equal(dict(_tensors(model, adapter)), folder / ADAPTER_WEIGHTS)
    except (OSError, ValueError, MergeError, SafetensorError):
        return False


def _means(model: Any, adapter: str, config: Any) -> bool:
    """Whether the adapter is a LoRA whose scaling is that of its file."""
    live = model.peft_config[adapter].to_dict()
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        return False
    if any(key in config and config[key] != getattr(live.get(key), "value", live.get(key)) for key in _MEANING):
        return False
    layers = [each for each in model.modules() if isinstance(each, LoraLayer) and adapter in each.scaling]
    root = 0.5 if config.get("use_rslora") else 1.0
    return all(each.scaling[adapter] == each.lora_alpha[adapter] / each.r[adapter] ** root for each in layers)


def _tensors(model: Any, adapter: str) -> Iterator[tuple[str, Tensor]]:
    """The adapter's tensors by the names that they have in its file."""
    for name, tensor in model.named_parameters(remove_duplicate=False):
        if f".{adapter}." in f"{name}.":
            yield name.replace(f".modules_to_save.{adapter}.", ".").replace(f".{adapter}", ""), tensor.data


def _equal(live: Mapping[str, Tensor], path: Path) -> bool:
    if read_header(path, path.name).keys() != live.keys():
        return False
    with safe_open(path, "pt") as file:
        return all(torch.equal(_few(tensor), _few(file.get_tensor(name))) for name, tensor in live.items())


def _few(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLE)][:_SAMPLE].cpu().double()
