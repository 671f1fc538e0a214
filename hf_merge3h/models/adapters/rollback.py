"""Changes to a live PeftModel that happen wholly or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def all_or_nothing(model: nn.Module) -> Iterator[list[tuple[nn.Parameter, bool]]]:
    """Put the structure of a model back as it was if the block raises anything, Ctrl-C included.

    Kept are each module's attributes, the dicts, lists and sets among them, and which parameters require gradients:
    all that adding, deleting and activating adapters touches. Values of tensors are not kept: do not write them.

    Yields:
        Each parameter, and whether it required gradients.
    """
    containers: list[tuple[Any, Any]] = []
    empty: list[Any] = []  # most are, and there are tens of thousands: no copy is made of these
    for module in list(model.modules()):
        containers.append((module.__dict__, module.__dict__.copy()))
        for value in module.__dict__.values():
            if isinstance(value, (dict, list, set)):
                if value:
                    containers.append((value, value.copy()))
                else:
                    empty.append(value)
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield gradients
    except BaseException:
        for container, content in (*containers, *((each, ()) for each in empty)):
            container.clear()
            if isinstance(container, list):
                container.extend(content)
            else:
                container.update(content)
        restore_gradients(gradients)
        raise


def restore_gradients(gradients: list[tuple[nn.Parameter, bool]]) -> None:
    """Set back which parameters require gradients."""
    for parameter, flag in gradients:
        if parameter.requires_grad != flag:
            parameter.requires_grad_(flag)
