"""Weights that are packed: which packages make them, and how a layer that has them is told."""

from __future__ import annotations

from torch import Tensor, nn

#: Roots of packages whose modules or tensors hold quantised weights.
_QUANTISERS = frozenset(
    {
        "bitsandbytes",
        "auto_gptq",
        "gptqmodel",
        "awq",
        "auto_awq",
        "autoawq",
        "torchao",
        "hqq",
        "quanto",
        "optimum",
        "aqlm",
        "eetq",
        "vptq",
        "spqr_quant",
        "fbgemm",
        "fbgemm_gpu",
        "compressed_tensors",
        "auto_round",
        "gguf",
        "flute",
        "fouroversix",
        "quark",
    }
)
#: The same by the beginning of the class's name, for builds and wrappers that live elsewhere.
_QUANTISED_CLASSES = (
    "Linear4bit",
    "Linear8bitLt",
    "LinearFP4",
    "LinearNF4",
    "Params4bit",
    "Int8Params",
    "QuantLinear",
    "QuantizedLinear",
    "VQuantLinear",
    "WQLinear",
    "FP8Linear",
    "FbgemmFp8",
    "HqqLinear",
    "HQQLinear",
    "HiggsLinear",
    "AqlmLinear",
    "EetqLinear",
    "BitLinear",
    "CompressedLinear",
    "GGUFLinear",
    "GGUFParameter",
    "Mxfp4",
    "QModuleMixin",
    "QLinear",
    "WeightQBytesTensor",
    "WeightQBitsTensor",
)
#: What layers call their packed weights: GPTQ and AWQ, HQQ, compressed-tensors (whose layers are plain nn.Linear).
_PACKED = ("qweight", "W_q", "weight_packed")


def from_quantiser(thing: object) -> bool:
    """Whether a module or tensor is of a class that holds quantised weights."""
    return any(
        kind.__module__.partition(".")[0] in _QUANTISERS or kind.__name__.startswith(_QUANTISED_CLASSES)
        for kind in type(thing).__mro__
    )


def is_quantised(module: nn.Module) -> bool:
    """Whether a layer's weights are packed, so that they are no plain numbers to read or add to."""
    if from_quantiser(module) or any(getattr(module, packed, None) is not None for packed in _PACKED):
        return True
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return False
    if from_quantiser(weight) or from_quantiser(weight.data) or getattr(weight, "quant_state", None) is not None:
        return True
    return not weight.is_floating_point() or weight.element_size() == 1
