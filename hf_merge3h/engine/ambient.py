"""What the caller's torch is set to must not change a merge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """Neither autocast nor inference mode nor gradients, and float32 products in full float32."""
    precision = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for device in ("cpu", "cuda", "mps"):
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)


def in_plain_arithmetic(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function under `plain_arithmetic`."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with plain_arithmetic():
            return function(*args, **kwargs)

    return wrapped
