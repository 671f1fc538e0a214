"""Passthrough as a method's record: so lists and pages show it as they show the methods that the registry has.

It merges nothing, so it is registered nowhere: `merge_method: passthrough` is carried out by the plan of a recipe.
"""

from __future__ import annotations

from typing import Annotated, Any

from ..registry import Method
from ..schema import FINITE, read_schema
from .types import PASSTHROUGH


def passthrough(vectors: Any, weights: Any, *, scale: Annotated[float, FINITE] = 1.0) -> Any:
    """Copy the tensors of one model: for stacks of layers of several models, and for adapters put into their model.

    W = scale * W_1

    Args:
        vectors: the one model's weights.
        weights: one; it does not count.
        scale: factor of what is copied; may differ by tensor, as every parameter of a recipe.

    Returns:
        The copy.

    Reference:
        Goddard et al., "Arcee's MergeKit: A toolkit for merging large language models", 2024, arXiv:2403.13257.

    Note:
        In recipes only (`merge_method: passthrough`, mostly with `slices`); `merge_3h` and `merge` do not take it.
    """
    return vectors[0] * scale


RECORD = Method(
    name=PASSTHROUGH,
    title="Passthrough (recipes only)",
    paper="arXiv:2403.13257",
    family="copy",
    function=passthrough,
    parameters=read_schema(passthrough)[0],
    space="weight",
    elementwise=True,
    experts=(1, 1),
    weighted=False,
)
