"""From a LoRA layer to factors of the change that it makes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora.layer import Embedding, MultiheadAttention, ParamWrapper, _ConvNd
from torch import Tensor

from ...linalg.low_rank import LowRank
from ..types import TensorSpec
from .layers import Kind, NoDeltaError, Part, merged_parts

# Variants of LoRA, by PEFT's class names: those whose inference is plain LoRA, and those that have no fixed delta.
_PLAIN = frozenset(
    {
        "MiCALinearVariant",
        "MiCAEmbeddingVariant",
        "VeloraLinearVariant",
        "MontecloraLinearVariant",
        "BdLoraLinearVariant",
    }
)
_NO_DELTA = {
    "ALoraLinearVariant": "aLoRA acts only after its invocation tokens, so no fixed weights stand for it",
    "ArrowLinearVariant": "Arrow routes each token to other experts, so no fixed weights stand for it",
    "QALoraLinearVariant": "QA-LoRA pools its inputs, and PEFT gives no delta for it",
    "KasaLinearVariant": "KaSA truncates the base's own weights, so it is no change of this base",
}


def lora_parts(name: str, layer: Any, adapter: str) -> Iterator[Part]:
    """What a LoRA layer changes, for one adapter.

    Raises:
        NoDeltaError: no dense delta equals what this layer does.
    """
    if adapter not in layer.lora_A and adapter not in layer.lora_embedding_A:
        return
    variant = type(layer.lora_variant.get(adapter)).__name__
    dora = variant.startswith("Dora")
    if variant in _NO_DELTA:
        raise NoDeltaError(_NO_DELTA[variant])
    if not dora and variant != "NoneType" and variant not in _PLAIN:
        raise NoDeltaError(f"nothing is known of its LoRA variant {variant}")
    if type(layer).__module__.endswith("tp_layer"):
        raise NoDeltaError("its layers are split over devices (Megatron)")
    parameter, factors = _factors(layer, adapter)
    prefix = f"{name}." if name else ""
    if dora:
        yield from merged_parts(name, layer, adapter, only=("weight",))
    elif isinstance(factors, LowRank):
        spec = TensorSpec(tuple(factors.shape), factors.dtype, factors.rank)
        kind: Kind = "parameter" if isinstance(layer, ParamWrapper) else "lora"
        yield Part(prefix + parameter, name, kind, spec, False, lambda base: factors.to(dtype=torch.float32))
    else:
        product, shape = factors
        spec = TensorSpec(shape, product.dtype)
        yield Part(
            prefix + parameter,
            name,
            "lora",
            spec,
            False,
            lambda base: product.to(dtype=torch.float32).dense().view(shape),
            product.rank,
        )
    bias = getattr(layer.lora_B[adapter], "bias", None) if adapter in layer.lora_B else None
    if bias is not None:
        if getattr(layer.get_base_layer(), "bias", None) is None:
            if not bias.any():  # one switch for all layers: those that have no bias add zero
                return
            raise NoDeltaError(f"lora_bias, but {name!r} has no bias that could take it")
        scaling = layer.scaling[adapter]
        spec = TensorSpec(tuple(bias.shape), bias.dtype)
        yield Part(f"{prefix}bias", name, "bias", spec, False, lambda base: bias.detach().float() * scaling)


def _factors(layer: Any, adapter: str) -> tuple[str, LowRank | tuple[LowRank, tuple[int, ...]]]:
    """The parameter's name and its factors, as the parameter is stored (of a convolution also its shape)."""
    scaling = layer.scaling[adapter]
    if isinstance(layer, Embedding):
        return "weight", _scaled(layer.lora_embedding_A[adapter].mT, layer.lora_embedding_B[adapter].mT, scaling)
    if isinstance(layer, MultiheadAttention):
        raise NoDeltaError("LoRA on nn.MultiheadAttention: PEFT applies its output projection twice")
    A, B = _matrix(layer.lora_A[adapter]), _matrix(layer.lora_B[adapter])
    if isinstance(layer, ParamWrapper):
        return layer.parameter_name, _stacked(layer, A, B, scaling)
    if isinstance(layer, _ConvNd):
        base: Any = layer.get_base_layer()
        if base.groups > 1:
            raise NoDeltaError("LoRA on a convolution with groups, which PEFT cannot merge")
        if set(base.dilation) != {1} or base.padding_mode != "zeros":
            raise NoDeltaError("LoRA on a convolution with dilation or padding_mode, which PEFT's layer ignores")
        return "weight", (_scaled(B.flatten(1), A.flatten(1), scaling), tuple(base.weight.shape))
    if A.ndim != 2 or B.ndim != 2:
        raise NoDeltaError(f"nothing is known of its layer {type(layer).__name__}")
    if getattr(layer, "fan_in_fan_out", False):
        return "weight", _scaled(A.mT, B.mT, scaling)
    return "weight", _scaled(B, A, scaling)


def _stacked(layer: ParamWrapper, A: Tensor, B: Tensor, scaling: float) -> LowRank:
    """Factors of `target_parameters`: one matrix, or a stack with one matrix for each expert of an MoE layer."""
    shape = layer.get_param().shape
    if len(shape) == 2:
        return _scaled(B, A, scaling)
    A = A.reshape(layer.num_experts, -1, A.shape[-1])  # [expert, r, in]
    B = B.reshape(B.shape[0], -1, layer.num_experts).permute(2, 0, 1)  # [expert, out, r]
    swapped = layer._did_swap_in_out_features
    if layer.num_experts == 1 and not swapped:
        raise NoDeltaError(
            "target_parameters on a transposed stack of one matrix, which PEFT's layer adds the wrong way"
        )
    return _scaled(B, A, scaling) if swapped else _scaled(A.mT, B.mT, scaling)


def _matrix(module: Any) -> Tensor:
    blocks = getattr(module, "weight_as_blockdiagonal_matrix", None)
    return (blocks() if blocks is not None else module.weight).detach()


def _scaled(left: Tensor, right: Tensor, scaling: float) -> LowRank:
    """The factors with the scaling in the left one; what is stored in 16 bits is scaled in float32."""
    if scaling == 1:
        return LowRank(left.detach(), right.detach())
    return LowRank(left.detach().to(torch.promote_types(left.dtype, torch.float32)) * scaling, right.detach())
