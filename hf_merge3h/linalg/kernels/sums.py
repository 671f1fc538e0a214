"""Loops that tell something of a whole row: sums in float64, and how many entries lie where."""

from __future__ import annotations

import numpy as np

from .compiled import LANES, kernel


@kernel
def magnitudes(row):  # type: ignore[no-untyped-def]
    """Sum of the magnitudes, float64."""
    sums, whole = np.zeros(LANES), len(row) - len(row) % LANES
    for left in range(0, whole, LANES):
        part = row[left : left + LANES]
        for j in range(LANES):
            sums[j] += np.float64(abs(part[j]))
    for j in range(len(row) - whole):
        sums[j] += np.float64(abs(row[whole + j]))
    return sums.sum()


@kernel
def squares(row):  # type: ignore[no-untyped-def]
    """Sum of the squares, float64."""
    found = np.empty((1, 1))
    gram(row.reshape(1, len(row)), found)
    return found[0, 0]


@kernel
def gram(rows, found):  # type: ignore[no-untyped-def]
    """Inner products of the rows, float64, all in one reading."""
    tasks, n = rows.shape
    sums = np.zeros((tasks, tasks, LANES))
    for left in range(0, n, LANES):
        size = min(LANES, n - left)
        for t in range(tasks):
            one = rows[t, left : left + size]
            for s in range(t + 1):
                other, total = rows[s, left : left + size], sums[t, s]
                for j in range(size):
                    total[j] += np.float64(one[j]) * np.float64(other[j])
    for t in range(tasks):
        for s in range(t + 1):
            found[t, s] = found[s, t] = sums[t, s].sum()


@kernel
def within(values, low, high, chosen):  # type: ignore[no-untyped-def]
    """How many magnitudes exceed `high`, how many others reach `low`, which is over 0; these go into `chosen`."""
    above, inside = 0, 0
    if low == high:  # all that go in are equal: nothing to collect
        for i in range(len(values)):
            above += abs(values[i]) > high
            inside += abs(values[i]) == high
        return above, inside
    for i in range(len(values)):
        size = abs(values[i])
        over = size > high
        above += over
        chosen[inside] = size
        inside += (size >= low) & (not over)
    return above, inside
