"""A time limit: models that are asked one after the other share it, and as many items are asked as fit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from .items import Item
from .suite import Task

FIRST = 2  # items a data set of the first round, which tells how quick model and machine are
WRITTEN = 6  # the same where models write: each step reads all weights, so six answers take hardly longer than two
_GROWTH = 4  # how much larger than the last round one may be that rests on its speed
_SAFE = 0.9  # the share of the time that is left which is planned with


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

    def share(self, models: int, at_once: int = 1) -> Deadline:
        """The part of the time that the next of so many models may take: what the ones before it left is shared.

        Args:
            models: that are not asked yet.
            at_once: how many of them are asked together, and so take their shares together.
        """
        return Deadline(max(0.0, self.left) * at_once / models)


def quick_first(tasks: Mapping[str, Task]) -> list[str]:
    """Data sets in the order in which a short time is spent on them: the quickest of each H, then the others."""
    order = sorted(tasks, key=lambda name: tasks[name].most_tokens)
    first = {tasks[name].h: name for name in reversed(order)}
    return sorted(order, key=lambda name: name not in first.values())


def parts(
    items: Mapping[str, Sequence[Item]], tokens: Mapping[str, int], deadline: Deadline
) -> Iterator[tuple[str, Sequence[Item]]]:
    """Data sets and the items of each that are to be asked next; without a limit each once, with all its items.

    With one, a few of each tell the speed; as many more follow as fit by it, of all data sets alike, and at the end of
    those alone that are quick enough. What is expected to end too late is not begun.

    Args:
        items: of each data set, in the order in which they are asked.
        tokens: how much a model may write for one item of a data set.
        deadline: the time that there is; the caller works on one part before it asks for the next.
    """
    if not math.isfinite(deadline.seconds):
        yield from items.items()
        return
    speed, done, size = _Speed(), dict.fromkeys(items, 0), FIRST
    for name, found in items.items():
        first = found[: WRITTEN if tokens[name] else FIRST]
        if speed.expected(name, len(first), tokens[name]) <= max(0.0, deadline.left):
            with speed.measured(name, len(first), tokens[name], deadline):
                yield name, first
            done[name] = len(first)
    while True:
        left = {name: len(items[name]) - count for name, count in done.items() if 0 < count < len(items[name])}
        while left and not (fitting := speed.fitting(left, tokens, _SAFE * deadline.left)):
            del left[max(left, key=speed.last)]
        if not left:
            return
        size = min(_GROWTH * size, fitting)
        for name, rest in left.items():
            part = items[name][done[name] : done[name] + min(size, rest)]
            with speed.measured(name, len(part), tokens[name], deadline):
                yield name, part
            done[name] += len(part)


class _Speed:
    """How long parts took. Fewer items are not taken to be quicker: a batch of one takes what a batch of four does."""

    def __init__(self) -> None:
        self._took: dict[str, tuple[float, int]] = {}
        self._token = 0.0

    @contextmanager
    def measured(self, name: str, count: int, tokens: int, deadline: Deadline) -> Iterator[None]:
        """Remember how long it takes until the caller is back."""
        before = deadline.left
        yield
        seconds = before - deadline.left
        self._took[name] = (seconds, count)
        if tokens:
            self._token = seconds / tokens

    def last(self, name: str) -> float:
        """Seconds that the last part of a data set took."""
        return self._took[name][0]

    def expected(self, name: str, count: int, tokens: int) -> float:
        """Seconds for so many items of a data set; of one not asked so far, from how quick others were written."""
        if name not in self._took:
            return self._token * tokens
        seconds, before = self._took[name]
        return seconds * max(1.0, count / before)

    def fitting(self, left: Mapping[str, int], tokens: Mapping[str, int], seconds: float) -> int:
        """How many items of each data set can be asked in some seconds; 0 where nothing is left either."""
        size = 0
        while size < max(left.values(), default=0) and seconds >= sum(
            self.expected(name, min(size + 1, rest), tokens[name]) for name, rest in left.items()
        ):
            size += 1
        return size
