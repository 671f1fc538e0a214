"""Double precision, wherever the device has it."""

from __future__ import annotations

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
