"""Loops that measure what a merge did to a block, and those that merge and measure in one reading."""

from __future__ import annotations

import functools

import numpy as np

from .compiled import RUN, kernel
from .stored import ROUNDED_UP, SIGNLESS, entries_at, exact, nearest

_FEW = RUN // 4  # entries at a time, of which there are two rows more than tasks

# These sums are figures that people read, of float32 products, in whatever order is fastest here.
_loosely = functools.partial(kernel, fastmath={"contract", "reassoc"})


@_loosely
def _inner(one, other):  # type: ignore[no-untyped-def]
    """Inner product of two short rows, float32."""
    total = np.float32(0)
    for j in range(len(one)):
        total += one[j] * other[j]
    return total


@_loosely
def _square_of_loss(stored, up, origin, change):  # type: ignore[no-untyped-def]
    """|stored - origin - change|^2 of short rows."""
    total = np.float32(0)
    for j in range(len(stored)):
        lost = exact(stored[j], up) - origin[j] - change[j]
        total += lost * lost
    return total


@kernel
def _mark(row, marks):  # type: ignore[no-untyped-def]
    """Note of each entry which ways it changes: 1 up, 2 down."""
    for j in range(len(row)):
        marks[j] |= np.uint8(row[j] > np.float32(0)) | np.uint8(np.uint8(row[j] < np.float32(0)) << np.uint8(1))


@kernel
def _count(marks):  # type: ignore[no-untyped-def]
    """How many entries change at all, and how many both ways."""
    changed, both = np.int32(0), np.int32(0)
    for j in range(len(marks)):
        changed = np.int32(changed + np.int32(marks[j] != 0))
        both = np.int32(both + np.int32(marks[j] == 3))
    return changed, both


@kernel
def _add_up(rows, count, marks, gram, counts):  # type: ignore[no-untyped-def]
    """Add what a run of entries tells: rows are the changes and, last, the merged one."""
    tasks, marks = len(rows) - 1, marks[:count]
    for j in range(count):
        marks[j] = 0
    for t in range(tasks + 1):
        row = rows[t, :count]
        for s in range(t + 1):
            gram[t, s] += _inner(row, rows[s, :count])
        if t < tasks:
            _mark(row, marks)
    changed, both = _count(marks)
    counts[0] += changed
    counts[1] += both


@kernel
def _mirror(gram):  # type: ignore[no-untyped-def]
    for t in range(len(gram)):
        for s in range(t):
            gram[s, t] = gram[t, s]


@kernel
def measured(vectors, base, in_weights, merged, stored, lossy, gram, counts):  # type: ignore[no-untyped-def]
    """What a merge did to a block that lies in memory.

    vectors [task, n] and merged [n] are weights, or changes of the base's [n]; stored is what the merged weights
    became, as bits, and lossy whether that can have lost anything. Adds to gram [task + 1, task + 1] and to counts:
    entries that change, entries that change both ways, the square of what was lost.
    """
    tasks, n = vectors.shape
    rows, marks = np.empty((tasks + 1, _FEW), np.float32), np.empty(_FEW, np.uint8)
    up = np.uint32(32 - 8 * stored.itemsize)
    for left in range(0, n, _FEW):
        count = min(_FEW, n - left)
        origin = base[left : left + count]
        for t in range(tasks + 1):
            part, row = (vectors[t] if t < tasks else merged)[left : left + count], rows[t]
            if in_weights:
                for j in range(count):
                    row[j] = part[j] - origin[j]
            else:
                for j in range(count):
                    row[j] = part[j]
        _add_up(rows, count, marks, gram, counts)
        if lossy:
            counts[2] += _square_of_loss(stored[left : left + count], up, origin, rows[tasks, :count])
    _mirror(gram)


@kernel
def average_measured(addresses, base, in_weights, weights, ratio, target, gram, counts):  # type: ignore[no-untyped-def]
    """`stored.average` of weights or of changes of the base, and `measured` of it, in one reading; the same bits.

    Whether the result is finite in bfloat16, and the base too.
    """
    tasks, n = len(addresses), len(target)
    rows, marks = np.empty((tasks + 1, _FEW), np.float32), np.empty(_FEW, np.uint8)
    origin, total = np.empty(_FEW, np.float32), np.empty(_FEW, np.float32)
    most, up = np.uint32(0), np.uint32(32 - 8 * base.itemsize)
    for left in range(0, n, _FEW):
        count = min(_FEW, n - left)
        place, under = target[left : left + count], base[left : left + count]
        for j in range(count):
            origin[j] = exact(under[j], up)
            most = max(most, np.uint32(np.float32(origin[j]).view(np.uint32) & SIGNLESS))
        total[:] = -np.float32(0)
        for t in range(tasks):
            part, row, weight = entries_at(addresses[t], left, count, base), rows[t], weights[t]
            for j in range(count):
                row[j] = exact(part[j], up) - origin[j]
            if in_weights:
                for j in range(count):
                    total[j] += exact(part[j], up) * weight
            else:
                for j in range(count):
                    total[j] += row[j] * weight
        change = rows[tasks]
        for j in range(count):
            total[j] *= ratio
        if in_weights:
            for j in range(count):
                change[j] = total[j] - origin[j]
        else:
            for j in range(count):
                change[j] = total[j]
                total[j] += origin[j]
        for j in range(count):
            bits = np.float32(total[j]).view(np.uint32)
            place[j] = nearest(bits)
            most = max(most, np.uint32(bits & SIGNLESS))
        _add_up(rows, count, marks, gram, counts)
        counts[2] += _square_of_loss(place, np.uint32(16), origin[:count], change[:count])
    _mirror(gram)
    return most < ROUNDED_UP
