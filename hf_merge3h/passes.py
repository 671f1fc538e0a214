"""How a method reads more than one tensor, or less than one: what the engine and such methods agree on."""

from __future__ import annotations

import typing
from typing import Any


@typing.runtime_checkable
class Accumulator(typing.Protocol):
    """Whole-model statistics that a method needs before it can treat the first tensor.

    The engine makes one by `prepare(parameters, n_experts)`, shows it every group of same-shaped tensors in each of
    its passes, and hands what `result` returns to the method as `statistics=`.
    """

    passes: int

    def observe(self, number: int, names: tuple[str, ...], deltas: Any, matrix: bool) -> None:
        """See one group in pass `number` (from 0): deltas as the method gets them (a tensor [task, batch, *shape],
        or a tuple of LowRank), `matrix` true where the method itself (not its fallback) will treat the group."""

    def result(self) -> Any:
        """What the method receives as `statistics`: plain data, small."""


@typing.runtime_checkable
class Parts(typing.Protocol):
    """One tensor that is merged part by part, so that nothing of its size is ever in memory.

    Parts are runs of entries [task, 1, entries] of the flattened tensor. `look` and `merge` may be called from several
    threads at once; `add` is called by one, in the order of the parts.
    """

    def stride(self) -> int | None:
        """Asked before each reading: every how many-th entry it wants to see; None when the merge can begin."""

    def look(self, vectors: Any) -> Any:
        """What one part of the reading tells."""

    def add(self, seen: Any) -> None:
        """Take in what `look` found in one part."""

    def merge(self, start: int, vectors: Any) -> Any:
        """The merged entries [1, entries]."""
