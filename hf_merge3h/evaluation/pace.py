"""A time limit: models that are asked one after the other share it, and as many items are asked as fit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from .items import Item

FIRST = 2  # items a data set of the first round, which tells how quick model and machine are


class OutOfTimeError(Exception):
    """The time is up; what was answered until then is kept."""


@dataclass(frozen=True)
class Deadline:
    """When to stop asking; never by default.

    Attributes:
        seconds: that there are, from `start` (of the monotonic clock) on.
    """

    seconds: float = math.inf
    start: float = field(default_factory=lambda: monotonic())

    @property
    def left(self) -> float:
        """Seconds that remain."""
        return self.start + self.seconds - monotonic()

    @property
    def spent(self) -> float:
        """The share of the time that is gone."""
        return min(1.0, 1 - self.left / self.seconds) if math.isfinite(self.seconds) else 0.0

    def check(self) -> None:
        """Stop here if the time is up.

        Raises:
            OutOfTimeError: it is.
        """
        if self.left <= 0:
            raise OutOfTimeError

    def share(self, models: int) -> Deadline:
        """The part of the time that the next of so many models may take: what the ones before it left is shared."""
        return Deadline(max(0.0, self.left) / models)


def rounds(items: Mapping[str, Sequence[Item]], deadline: Deadline) -> Iterator[dict[str, Sequence[Item]]]:
    """Items of all data sets alike, in rounds that grow as long as the speed so far says that one fits.

    Without a limit all of them are one round.
    """
    if not math.isfinite(deadline.seconds):
        yield dict(items)
        return
    start, size = 0, FIRST
    while size and start < max(map(len, items.values())):
        before = deadline.left
        yield {name: part for name, found in items.items() if (part := found[start : start + size])}
        each = max((before - deadline.left) / size, 1e-9)
        start += size
        size = min(2 * size, int(max(0.0, deadline.left) / each))
