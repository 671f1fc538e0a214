"""The k-th largest magnitudes of a tensor that is read part by part, exact, mostly from a single reading.

A sample tells between which two values the k-th largest lies with near certainty (4.5 standard errors of its rank: all
but 7 times in a million); one reading counts what is above and collects what is between. Should the sample have lied,
two readings with histograms find it all the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from . import native
from .sparsify import bin_of_rank, from_bits, magnitude_histogram

_SAMPLED = 1 << 16  # entries of a sample, about
_SURE = 4.5  # standard errors on each side: what lies between is collected, and that is what takes the time


def _magnitudes(vectors: Float[Tensor, "task 1 part"]) -> Float[Tensor, "task part"]:
    return vectors[:, 0].abs()


class _Gathered:
    """Numbers that come in parts, in one array that grows.

    An array kept of each part would lie among the large ones that a part makes and frees, and cut up the heap.
    """

    def __init__(self) -> None:
        self._store, self._count = np.empty(0, np.float32), 0

    def add(self, values: np.ndarray) -> None:
        """Further numbers."""
        end = self._count + len(values)
        if end > len(self._store):
            self._store, before = np.empty(max(end, 2 * len(self._store)), np.float32), self._store
            self._store[: self._count] = before[: self._count]
        self._store[self._count : end] = values
        self._count = end

    def values(self) -> np.ndarray:
        """All of them."""
        return self._store[: self._count]


class _Between:
    """What readings found of a bracket: how many are above it, how many in it, and these."""

    def __init__(self) -> None:
        self.above, self.inside, self.chosen = 0, 0, _Gathered()

    def add(self, above: int, inside: int, chosen: np.ndarray | None) -> None:
        """Of one part."""
        self.above += above
        self.inside += inside
        if chosen is not None:
            self.chosen.add(chosen)


class _Row:
    """What readings found of one row: of each bracket, and how many entries are not zero."""

    def __init__(self, brackets: int) -> None:
        self.brackets, self.not_zero = [_Between() for _ in range(brackets)], 0

    def add(self, within: list[tuple[int, int, np.ndarray | None]], not_zero: int) -> None:
        """Of one part."""
        for bracket, each in zip(self.brackets, within, strict=True):
            bracket.add(*each)
        self.not_zero += not_zero


class StreamedRanks:
    """Some k-th largest magnitudes of each row, from parts [task, 1, entries]: a `passes.Search`.

    Args:
        ranks: for each row, its values of k, from 1; or what makes one k for each row of the number of its entries
            that are not zero.
        entries: of the whole tensor.
        rows: makes what is ranked, not negative, of a part; the tasks' magnitudes, if left out.

    Example:
        >>> ranks = StreamedRanks([(1, 2)], 3)
        >>> while (step := ranks.stride()) is not None:
        ...     ranks.add(ranks.look(0, torch.tensor([[[3.0, -5.0, 1.0]]])[..., ::step]))
        >>> ranks.found
        [[5.0, 3.0]]
    """

    def __init__(
        self,
        ranks: Sequence[Sequence[int]] | Callable[[int], int],
        entries: int,
        rows: Callable[[Tensor], Tensor] = _magnitudes,
    ) -> None:
        self._rank_of = ranks if callable(ranks) else None
        self._ranks: Sequence[Sequence[int]] = [] if callable(ranks) else ranks
        self._entries, self._rows = entries, rows
        self.sample_stride = entries // _SAMPLED | 1  # odd, so that no column of a matrix is met again and again
        self._phase = "start"
        self._gathered: list[Any] = []  # of each row, what the reading has found so far
        self._brackets: list[list[tuple[float, float]]] = []
        self._bins: list[list[tuple[Tensor, Tensor]]] = []
        self._lock = threading.Lock()
        #: The k-th largest magnitudes of each row, when `stride` has given None.
        self.found: list[list[float]] = []

    def stride(self) -> int | None:
        """Close the last reading, and say what the next one is to show."""
        with self._lock:
            getattr(self, f"_after_{self._phase}")()
        self._gathered = []
        return None if self.found else self.sample_stride if self._phase == "sample" else 1

    def look(self, start: int, vectors: Float[Tensor, "task 1 part"]) -> list[Any]:
        """What one part says; one entry for each row."""
        if self._phase == "bracket" and self._rows is _magnitudes and native.loaded():
            rows = vectors[:, 0]  # the loop takes magnitudes by itself
        else:
            rows = self._rows(vectors)
        if self._phase == "sample":
            return [row.numpy().copy() for row in rows]
        if self._phase == "bracket":
            count = self._rank_of is not None
            return [
                (_within(row.numpy(), bounds), _not_zero(row.numpy()) if count else 0)
                for row, bounds in zip(rows, self._brackets, strict=True)
            ]
        if self._phase == "upper":
            return [[magnitude_histogram(row.unsqueeze(0))] for row in rows]
        return [
            [magnitude_histogram(row.unsqueeze(0), upper) for upper, _ in bins]
            for row, bins in zip(rows, self._bins, strict=True)
        ]

    def add(self, seen: list[Any]) -> None:
        """Take in what `look` found."""
        if self._phase in ("upper", "lower"):
            before = self._gathered or [[0] * len(each) for each in seen]
            self._gathered = [[b + m for b, m in zip(*each, strict=True)] for each in zip(before, seen, strict=True)]
        elif self._phase == "sample":
            self._gathered = self._gathered or [_Gathered() for _ in seen]
            for sample, row in zip(self._gathered, seen, strict=True):
                sample.add(row)
        else:
            self._gathered = self._gathered or [_Row(len(within)) for within, _ in seen]
            for row, (within, not_zero) in zip(self._gathered, seen, strict=True):
                row.add(within, not_zero)

    def _after_start(self) -> None:
        self._phase = "sample"
        if self._rank_of is None and not any(self._ranks):
            self.found = [[] for _ in self._ranks]

    def _after_sample(self) -> None:
        samples = [np.sort(sample.values())[::-1] for sample in self._gathered]
        if self._rank_of is None:
            for sample, ranks in zip(samples, self._ranks, strict=True):
                self._brackets.append([_bracket(sample, rank / self._entries) for rank in ranks])
        else:
            for sample in samples:
                share = _not_zero(sample) / len(sample)
                rank = self._rank_of(round(share * self._entries)) / self._entries
                doubt = min(1.0, rank / share) * (share * (1 - share)) ** 0.5 if share else 0.0
                self._brackets.append([_bracket(sample, rank, doubt)])
        self._phase = "bracket"

    def _after_bracket(self) -> None:
        found = []
        if self._rank_of is not None:
            self._ranks = [[self._rank_of(row.not_zero)] for row in self._gathered]
        for ranks, brackets, gathered in zip(self._ranks, self._brackets, self._gathered, strict=True):
            row = []
            for rank, (low, high), between in zip(ranks, brackets, gathered.brackets, strict=True):
                if low == 0 and rank > between.above + between.inside:  # the others are zeros
                    row.append(0.0)
                    continue
                if not between.above < rank <= between.above + between.inside:
                    self._phase = "upper"
                    return
                if low == high:
                    row.append(low)
                    continue
                values = between.chosen.values()
                place = len(values) - (rank - between.above)
                row.append(float(np.partition(values, place)[place]))
            found.append(row)
        self.found = found

    def _after_upper(self) -> None:
        self._bins = [
            [bin_of_rank(counts[0], torch.tensor([rank])) for rank in ranks]
            for counts, ranks in zip(self._gathered, self._ranks, strict=True)
        ]
        self._phase = "lower"

    def _after_lower(self) -> None:
        self.found = [
            [
                from_bits(upper, bin_of_rank(own, rank)[0]).item()
                for (upper, rank), own in zip(bins, counts, strict=True)
            ]
            for bins, counts in zip(self._bins, self._gathered, strict=True)
        ]


def _bracket(sample: np.ndarray, share: float, doubt: float = 0.0) -> tuple[float, float]:
    """Between which two magnitudes of a sample, sorted downwards, the value at this share of all lies.

    The share itself may be an estimate from the sample; `doubt` is the standard deviation of one entry's part in it.
    """
    spread = _SURE * ((share * (1 - share)) ** 0.5 + doubt) * len(sample) ** 0.5 + 2
    middle = share * len(sample)
    first, last = int(middle - spread), int(middle + spread) + 1
    return float(sample[last]) if last < len(sample) else 0.0, float(sample[first]) if first >= 0 else float("inf")


def _not_zero(sizes: np.ndarray) -> int:
    return int(np.count_nonzero(sizes))


def _within(sizes: np.ndarray, brackets: list[tuple[float, float]]) -> list[tuple[int, int, np.ndarray | None]]:
    """For each bracket how many are above it, how many in it, and these; zeros are in none.

    Magnitudes, or with compiled loops the entries themselves.
    """
    found: list[tuple[int, int, np.ndarray | None]] = []
    for low, high in brackets:
        if native.loaded():
            outside, inside, values = native.within(sizes, low, high)
            found.append((outside, inside, None if low == high else values))
            continue
        above = sizes > np.float32(high)
        reaching = sizes >= np.float32(low) if low > 0 else sizes > 0
        outside = int(np.count_nonzero(above))
        inside = int(np.count_nonzero(reaching)) - outside
        chosen = None if low == high else sizes[np.flatnonzero(np.logical_xor(above, reaching, out=above))]
        found.append((outside, inside, chosen))
    return found
