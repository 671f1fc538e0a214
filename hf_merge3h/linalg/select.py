"""The k-th largest magnitudes of a tensor that is read part by part, exact, mostly from a single reading.

A sample tells between which two values the k-th largest lies with near certainty (six standard errors of its rank);
one reading counts what is above and collects what is between. Should the sample have lied, two readings with
histograms find it all the same.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .sparsify import bin_of_rank, from_bits, magnitude_histogram

_STRIDE = 61  # one in so many entries is sampled; odd, so that no column of a matrix is met again and again
_SURE = 6.0  # standard errors on each side


class StreamedRanks:
    """One k-th largest magnitude for each task, from parts [task, 1, entries].

    Ask `stride(number)` before each reading: None when all is known, else every how many-th entry it wants to see.
    `look` may be called by several threads, `add` by one.

    Args:
        ranks: k for each task, from 1.
        entries: of the whole tensor.

    Example:
        >>> ranks = StreamedRanks((2,), 3)
        >>> while (step := ranks.stride()) is not None:
        ...     ranks.add(ranks.look(torch.tensor([[[3.0, -5.0, 1.0]]])[..., ::step]))
        >>> ranks.found
        [3.0]
    """

    def __init__(self, ranks: tuple[int, ...], entries: int) -> None:
        self._ranks, self._entries = ranks, entries
        self._phase = "start"
        self._gathered: list[list[Any]] = []
        self._brackets: list[tuple[float, float]] = []
        self._bins: list[tuple[Tensor, Tensor]] = []
        self._lock = threading.Lock()
        #: The k-th largest magnitudes, when `stride` has given None.
        self.found: list[float] = []

    def stride(self) -> int | None:
        """Close the last reading, and say what the next one is to show."""
        with self._lock:
            getattr(self, f"_after_{self._phase}")()
        self._gathered = [[] for _ in self._ranks]
        return None if self.found else _STRIDE if self._phase == "sample" else 1

    def look(self, vectors: Float[Tensor, "task 1 part"]) -> list[Any]:
        """What one part says; one entry for each task."""
        if self._phase == "sample":
            return list(vectors.abs())
        if self._phase == "bracket":
            return [
                _within(part.abs().reshape(-1), bounds) for part, bounds in zip(vectors, self._brackets, strict=True)
            ]
        uppers = [None] * len(vectors) if self._phase == "upper" else [upper for upper, _ in self._bins]
        return [magnitude_histogram(part, upper) for part, upper in zip(vectors, uppers, strict=True)]

    def add(self, seen: list[Any]) -> None:
        """Take in what `look` found."""
        for gathered, each in zip(self._gathered, seen, strict=True):
            if self._phase in ("upper", "lower") and gathered:
                gathered[0] = gathered[0] + each
            else:
                gathered.append(each)

    def _after_start(self) -> None:
        self._phase = "sample"

    def _after_sample(self) -> None:
        for rank, parts in zip(self._ranks, self._gathered, strict=True):
            sample = torch.cat(parts, -1).reshape(-1).sort(descending=True).values
            share = rank / self._entries
            spread = _SURE * (len(sample) * share * (1 - share)) ** 0.5 + 2
            middle = share * len(sample)
            first, last = int(middle - spread), int(middle + spread) + 1
            high = float(sample[first]) if first >= 0 else float("inf")
            low = float(sample[last]) if last < len(sample) else 0.0
            self._brackets.append((low, high))
        self._phase = "bracket"

    def _after_bracket(self) -> None:
        found = []
        for rank, (low, high), parts in zip(self._ranks, self._brackets, self._gathered, strict=True):
            above, between = sum(each[0] for each in parts), sum(each[1] for each in parts)
            if not above < rank <= above + between:
                self._phase = "upper"
                return
            if low == high:
                found.append(low)
                continue
            values = torch.cat([each[2] for each in parts])
            found.append(float(values.kthvalue(len(values) - (rank - above) + 1).values))
        self.found = found

    def _after_upper(self) -> None:
        self._bins = [
            bin_of_rank(counts[0], torch.tensor([rank]))
            for counts, rank in zip(self._gathered, self._ranks, strict=True)
        ]
        self._phase = "lower"

    def _after_lower(self) -> None:
        for (upper, rank), counts in zip(self._bins, self._gathered, strict=True):
            self.found.append(from_bits(upper, bin_of_rank(counts[0], rank)[0]).item())


def _within(sizes: Tensor, bounds: tuple[float, float]) -> tuple[int, int, Tensor | None]:
    """How many are above the bracket, how many in it, and these."""
    low, high = bounds
    above = int(torch.count_nonzero(sizes > high))
    if low == high:
        return above, int(torch.count_nonzero(sizes == low)), None
    chosen = sizes[(sizes >= low) & (sizes <= high)]
    return above, len(chosen), chosen
