"""How a method reads more than one tensor, or less than one: what the engine and such methods agree on.

`Accumulator` is for whole models; `Parts` is for one tensor, and `Elementwise`, `Searched` and `Total` are what most
parts are made of. What comes to a plain sum says so (`Weighted`, `Products`), for that can be taken while entries are
read.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Weighted:
    """A merge that is ratio * sum_t w_t x_t, tasks in order: w float32 [task], ratio a number that float32 holds."""

    weights: Any
    ratio: float = 1.0


@dataclass(frozen=True)
class Products:
    """A look that gives the inner products of the vectors, float64 [task, task]."""


@typing.runtime_checkable
class Parts(typing.Protocol):
    """One tensor that is merged part by part, so that nothing of its size is ever in memory.

    Parts are runs of entries [task, 1, entries] of the flattened tensor: blocks of `linalg.blocks.BLOCK` entries, or
    as many as make whole units. `look` and `merge` may be called from several threads at once; `add` is called by one,
    in the order of the parts. Neither changes its vectors. What `add` keeps must lie in a few arrays: an object for
    each part, however small, ends up between the large ones that a part makes and frees, and the heap grows.
    """

    unit: int
    """A part begins and ends at multiples of so many entries (the last one at the tensor's end)."""

    @property
    def comes_to(self) -> Weighted | Products | None:
        """What `merge`, or the reading that `stride` has asked for, comes to: who can may do that instead."""

    def stride(self) -> int | None:
        """Asked before each reading: every how many-th entry it wants to see; None when the merge can begin."""

    def look(self, start: int, vectors: Any) -> Any:
        """What one part of the reading tells, from the entry `start` on."""

    def add(self, seen: Any) -> None:
        """Take in what `look` found in one part."""

    def merge(self, start: int, vectors: Any) -> Any:
        """The merged entries [1, entries]."""


@typing.runtime_checkable
class Search(typing.Protocol):
    """Readings that find something out about a whole tensor; the same terms as `Parts`."""

    found: Any
    """What was found, when `stride` has given None."""

    def stride(self) -> int | None:
        """Every how many-th entry the next reading is to show; None when all is known."""

    def look(self, start: int, vectors: Any) -> Any:
        """What one part of the reading tells."""

    def add(self, seen: Any) -> None:
        """Take in what `look` found in one part."""


class Elementwise:
    """Parts of a method that needs to know nothing beforehand: `merge(start, vectors)` does it all.

    Args:
        merge: one part.
        unit: see `Parts`.
        comes_to: the sum that `merge` is, if it is one.

    Example:
        >>> Elementwise(lambda start, vectors: vectors * 2).merge(0, 21)
        42
    """

    def __init__(self, merge: Callable[[int, Any], Any], unit: int = 1, comes_to: Weighted | None = None) -> None:
        self.merge, self.unit, self.comes_to = merge, unit, comes_to

    def stride(self) -> None:
        """Nothing is looked at."""

    def look(self, start: int, vectors: Any) -> None:
        """Not called."""

    def add(self, seen: None) -> None:
        """Not called."""


class Total:
    """A search that adds up what `measure(start, vectors)` says of each part, in order.

    Args:
        measure: one part.
        comes_to: `Products`, where `measure` gives them.

    Example:
        >>> search = Total(lambda start, vectors: vectors)
        >>> search.stride(), search.add(search.look(0, 40)), search.add(search.look(1, 2)), search.stride()
        (1, None, None, None)
        >>> search.found
        42
    """

    def __init__(self, measure: Callable[[int, Any], Any], comes_to: Products | None = None) -> None:
        self.look, self.found, self.comes_to = measure, None, comes_to
        self._asked = False

    def stride(self) -> int | None:
        """One reading of everything."""
        self._asked, before = True, self._asked
        return None if before else 1

    def add(self, seen: Any) -> None:
        """Add up."""
        self.found = seen if self.found is None else self.found + seen


class Searched:
    """Parts that first search, and then are what follows from the result.

    Args:
        search: what has to be found first.
        follow: makes the parts of what was found.
        unit: of the search.
    """

    def __init__(self, search: Search, follow: Callable[[Any], Parts], unit: int = 1) -> None:
        self._search, self._follow, self.unit = search, follow, unit
        self._rest: Parts | None = None

    @property
    def comes_to(self) -> Weighted | Products | None:
        """Of the search, or of what follows it."""
        if self._rest is None:
            return self._search.comes_to if isinstance(self._search, Total) else None
        return self._rest.comes_to

    def stride(self) -> int | None:
        """What the search wants to see next, or what follows it."""
        if self._rest is None:
            wanted = self._search.stride()
            if wanted is not None:
                return wanted
            self._rest = self._follow(self._search.found)
        return self._rest.stride()

    def look(self, start: int, vectors: Any) -> Any:
        """Look for what is searched."""
        return (self._search if self._rest is None else self._rest).look(start, vectors)

    def add(self, seen: Any) -> None:
        """Take in what was found."""
        (self._search if self._rest is None else self._rest).add(seen)

    def merge(self, start: int, vectors: Any) -> Any:
        """As what follows does."""
        assert self._rest is not None
        return self._rest.merge(start, vectors)
