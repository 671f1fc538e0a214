"""Live models whose weights cannot be read or replaced as they are: each is refused with the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from ...errors import RequestError, bad
from .quantised import from_quantiser

#: Wrappers, and what to pass instead.
_WRAPPERS = {
    "OptimizedModule": ("was compiled by torch.compile", "pass the module that was compiled: model._orig_mod"),
    "DataParallel": ("is wrapped for several devices", "pass what is wrapped: model.module"),
    "DistributedDataParallel": ("is wrapped for several processes", "pass what is wrapped: model.module"),
    "FullyShardedDataParallel": ("is sharded (FSDP)", "save the full weights and merge them from disk or unsharded"),
    "FSDPModule": ("is sharded (FSDP)", "save the full weights and merge them from disk or unsharded"),
    "DeepSpeedEngine": ("belongs to DeepSpeed", "pass engine.module, with ZeRO stage 2 or lower"),
}


def check_live(model: object, label: str) -> None:
    """Refuse a live model whose weights cannot be read and replaced in place.

    Args:
        model: what was given as base or expert.
        label: how errors call it.

    Raises:
        RequestError: quantised, offloaded, on meta, sharded, compiled, wrapped, with adapter layers, or empty.
    """
    if not isinstance(model, nn.Module):
        raise bad(label, type(model).__name__, "a torch.nn.Module")
    for check in (_wrapped, _adapters, _quantised, _sharded, _absent):
        for reason, remedy in check(model):
            raise RequestError(f"{label}: this {type(model).__name__} {reason}; {remedy}")
    if not any(parameter.is_floating_point() for parameter in model.parameters()):
        raise RequestError(f"{label}: this {type(model).__name__} has no floating-point parameters; nothing to merge")


def _classes(thing: object) -> list[str]:
    return [kind.__name__ for kind in type(thing).__mro__]


_Findings = Iterator[tuple[str, str]]
_Check = Callable[[nn.Module], _Findings]


def _wrapped(model: nn.Module) -> _Findings:
    for module in model.modules():
        for name in _classes(module):
            if name in _WRAPPERS:
                yield _WRAPPERS[name]


def _adapters(model: nn.Module) -> _Findings:
    for path, module in model.named_modules():
        kinds = _classes(module)
        if "PeftModel" in kinds or "BaseTuner" in kinds:
            yield (
                "is a PEFT model, whose weights are a base and adapters",
                "merge adapters by peft_model.merge_3h([...]), or make one model of them first: "
                "model.merge_and_unload() (or model.unload() for the base alone)",
            )
        if "BaseTunerLayer" in kinds or "ModulesToSaveWrapper" in kinds:
            yield (
                f"has adapter layers of PEFT inside ({path!r})",
                "call merge_3h on the PeftModel, or unload the adapters first (its unload() or merge_and_unload())",
            )


def _quantised(model: nn.Module) -> _Findings:
    remedy = (
        "load it without quantization_config (dtype='bfloat16', say); or merge adapters on its PeftModel, which reads "
        "no base weights"
    )
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        config = getattr(getattr(model, "config", None), "quantization_config", None)
        method = getattr(config, "quant_method", None) or getattr(model, "quantization_method", None)
        yield f"is quantised ({getattr(method, 'value', method) or 'by an unknown method'})", remedy
    for path, module in model.named_modules():
        if from_quantiser(module):
            yield f"has quantised weights ({path!r} is a {type(module).__name__})", remedy
    for name, parameter in model.named_parameters():
        if from_quantiser(parameter) or from_quantiser(parameter.data):
            yield f"has quantised weights ({name!r} is a {type(parameter.data).__name__})", remedy
        if parameter.is_floating_point() and parameter.element_size() == 1:
            yield f"has quantised weights ({name!r} is {parameter.dtype})", remedy


def _sharded(model: nn.Module) -> _Findings:
    remedy = "gather the full weights (save_pretrained does) and merge them from disk"
    for name, parameter in model.named_parameters():
        if "DTensor" in _classes(parameter) or "DTensor" in _classes(parameter.data):
            yield f"is sharded ({name!r} is a DTensor)", remedy
        if hasattr(parameter, "ds_id"):
            yield f"is sharded by DeepSpeed ZeRO-3 ({name!r})", remedy
        # What FSDP wraps can be reached past the wrapper, which forwards unknown attributes (merge_3h too) to it.
        if getattr(parameter, "_is_flat_param", False) or getattr(parameter, "_fsdp_flattened", False):
            yield f"is sharded by FSDP ({name!r})", remedy


def _absent(model: nn.Module) -> _Findings:
    for path, module in model.named_modules():
        hook = getattr(module, "_hf_hook", None)
        if any(getattr(each, "offload", False) for each in (hook, *getattr(hook, "hooks", ()))):
            yield (
                f"is offloaded: accelerate keeps the weights of {path!r} elsewhere",
                "load it without device_map='auto' (device_map='cpu' holds all of it in memory)",
            )
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta":
            yield (
                f"has no weights in memory ({name!r} is on the meta device)",
                "load it with from_pretrained, without init_empty_weights or offloading",
            )
