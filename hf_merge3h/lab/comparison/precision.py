"""How products are formed: in float32, or in bfloat16, which some processors do several times as fast."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def is_short(precision: str) -> bool:
    """Whether `precision` (`auto`, `float32`, `bfloat16`) means bfloat16 here."""
    import torch

    if precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return precision == "bfloat16"


def products(precision: str) -> contextlib.AbstractContextManager[object]:
    """A block whose products are formed so; weights and sums stay as they are.

    What is rounded is not kept: what is trained in such a block would be asked by its first weights for ever.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(device, dtype=torch.bfloat16, enabled=is_short(precision), cache_enabled=False)


def round_products(model: torch.nn.Module) -> None:
    """Round the weights of linear layers to bfloat16, once, as autocast does at each call: the same bits.

    Where models are asked it keeps nothing that it rounded, and generation would spend half of its time in rounding.
    What shares such a weight, as embeddings do, keeps it in float32.
    """
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight = torch.nn.Parameter(module.weight.detach().to(torch.bfloat16), requires_grad=False)
