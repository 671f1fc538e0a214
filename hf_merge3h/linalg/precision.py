"""What a number's bits can hold: double precision where the device has it, and what is no number."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Relative precision of the compute dtype. Ranks are decided by it, also where a step runs in float64.
EPS = torch.finfo(torch.float32).eps


def double(tensor: Tensor) -> Tensor:
    """The tensor in float64; on the CPU where the device has no float64 (mps)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def safe_inverse(values: Tensor, keep: Tensor) -> Tensor:
    """1 / value where `keep`, else 0."""
    return torch.where(keep, 1.0 / torch.where(keep, values, 1.0), 0.0)


#: For a dtype: integers of its size, signed and not, and the bit pattern of infinity.
_BITS = {
    torch.float16: (torch.int16, np.uint16, 0x7C00),
    torch.bfloat16: (torch.int16, np.uint16, 0x7F80),
    torch.float32: (torch.int32, np.uint32, 0x7F800000),
    torch.float64: (torch.int64, np.uint64, 0x7FF0000000000000),
}


def all_finite(tensor: Tensor) -> bool:
    """Whether no entry is infinite or NaN.

    On the CPU by bit patterns. Without the sign, all of them that are not finite are greater than the others, so two
    maxima of integers tell: signed for the entries over 0, unsigned for those under 0. Integers are compared at the
    speed of the memory; to ask each entry takes ten times as long.

    >>> all_finite(torch.tensor([1.0, -2.0])), all_finite(torch.tensor([1.0, -torch.inf]))
    (True, False)
    """
    if tensor.device.type != "cpu" or tensor.dtype not in _BITS:
        return bool(torch.isfinite(tensor.float() if tensor.dtype.itemsize == 1 else tensor).all())
    signed, unsigned, infinity = _BITS[tensor.dtype]
    bits = tensor.contiguous().view(signed).numpy()
    under_zero = infinity + (1 << (8 * bits.itemsize - 1))
    return bool(bits.max(initial=0) < infinity and bits.view(unsigned).max(initial=0) < under_zero)
