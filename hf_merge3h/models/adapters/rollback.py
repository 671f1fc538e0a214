"""Changes to a live PeftModel that happen wholly or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

#: Most modules by far, and adding, deleting and activating adapters touches nothing that such a one holds but these
#: two dicts; of all others each attribute's own content is kept.
_LEAVES = (nn.Linear, nn.Identity, nn.Dropout)


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
    parameters: dict[int, nn.Parameter] = {}
    for module in list(model.modules()):
        attributes = module.__dict__
        containers.append((attributes, attributes.copy()))
        for value in (module._parameters,) if type(module) in _LEAVES else attributes.values():
            if isinstance(value, (dict, list, set)):
                if value:
                    containers.append((value, value.copy()))
                else:
                    empty.append(value)
        if module._parameters:
            parameters.update((id(each), each) for each in module._parameters.values() if each is not None)
    gradients = [(parameter, parameter.requires_grad) for parameter in parameters.values()]
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
