"""Loops that drop entries by lot, with SplitMix64's outputs (`linalg.random`)."""

from __future__ import annotations

import numpy as np

from .compiled import LANES, kernel

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

_MOST = 1 << 22  # buckets
_MOVES = 8  # an entry: where more are needed, the buckets were no help


@kernel
def _output(key, number):  # type: ignore[no-untyped-def]
    """An output of SplitMix64 but for its last step, which the upper 31 bits do not see."""
    word = key + (number + np.uint64(1)) * _GAMMA
    word = (word ^ (word >> np.uint64(30))) * _MIX_1
    return (word ^ (word >> np.uint64(27))) * _MIX_2


@kernel
def uniform(key, start, target):  # type: ignore[no-untyped-def]
    """Numbers in [0, 1): the upper 24 bits of SplitMix64's outputs, times 2^-24."""
    for i in range(len(target)):
        word = _output(key, start + np.uint64(i))
        target[i] = np.float32(np.int32(word >> np.uint64(40))) * np.float32(2.0**-24)


@kernel
def bernoulli(key, start, limit, target):  # type: ignore[no-untyped-def]
    """Where SplitMix64's outputs are less than a limit."""
    for i in range(len(target)):
        word = _output(key, start + np.uint64(i))
        target[i] = word < limit


@kernel
def drop_by_lot(values, key, start, limit, factor, target):  # type: ignore[no-untyped-def]
    """values * factor where the upper 24 bits of SplitMix64's outputs are less than a limit, else 0."""
    for i in range(len(values)):
        word = _output(key, start + np.uint64(i))
        target[i] = values[i] * np.float32((word >> np.uint64(40)) < limit) * factor


@kernel
def drop_by_rank(rows, key, start, probabilities, factors, target):  # type: ignore[no-untyped-def]
    """rows[r, i] * factors[k] where the number drawn is less than probabilities[k], else 0.

    k is the rank of |rows[r, i]| in its row, equal ones in order.
    """
    n = rows.shape[1]
    buckets = 1
    while buckets < min(n, _MOST):
        buckets *= 2
    pairs, spare = np.empty(n, np.uint64), np.empty(n, np.uint64)
    where, counts = np.empty(n, np.uint32), np.empty(buckets, np.uint32)
    drawn = np.empty(n, np.float32)
    for r in range(rows.shape[0]):
        row, result = rows[r], target[r]
        ranked = pairs if _by_buckets(row, pairs, where, counts) else _by_digits(row, pairs, spare)
        uniform(key, start + np.uint64(r) * np.uint64(n), drawn)
        for k in range(n):
            i = np.uint32(ranked[k])
            # A product, not a choice: the processor cannot guess what was drawn.
            result[i] = row[i] * (factors[k] * np.float32(drawn[i] < probabilities[k]))


@kernel
def _by_buckets(row, pairs, where, counts):  # type: ignore[no-untyped-def]
    """Sort a row by magnitude, equal ones in order; false where that would take too long.

    Each pair is a magnitude's bits and its place, as one number. Entries are laid into buckets of equal width over four
    times their root mean square, about one in each if they are spread as normal ones are, and sorted by insertion
    then. How the buckets lie changes the time and not the result.
    """
    n, last = len(row), np.float32(len(counts) - 1)
    sums, whole = np.zeros(LANES, np.float32), n - n % LANES
    for left in range(0, whole, LANES):
        part = row[left : left + LANES]
        for j in range(LANES):
            sums[j] += part[j] * part[j]
    for j in range(n - whole):
        sums[j] += row[whole + j] * row[whole + j]
    factor = last / (np.float32(4) * np.sqrt(sums.sum() / np.float32(n)))
    if not 0 < factor < np.inf:  # zeros, numbers that are not finite, or huge or tiny ones
        return False
    for i in range(n):
        where[i] = np.uint32(np.int32(min(abs(row[i]) * factor, last)))  # unsigned: no index from the end
    counts[:] = 0
    for i in range(n):
        counts[where[i]] += np.uint32(1)
    before = np.uint32(0)
    for place in range(len(counts)):
        before, counts[place] = before + counts[place], before
    bits = row.view(np.uint32)
    for i in range(n):
        to = counts[where[i]]
        counts[where[i]] = to + np.uint32(1)
        pairs[to] = _pair(bits[i], i)
    return _by_insertion(pairs, _MOVES * n)


@kernel
def _pair(bits, i):  # type: ignore[no-untyped-def]
    """A magnitude's bits over its place: ordered as magnitudes are, equal ones by place."""
    return (np.uint64(bits & np.uint32(0x7FFFFFFF)) << np.uint64(32)) | np.uint64(i)


@kernel
def _by_insertion(pairs, most):  # type: ignore[no-untyped-def]
    """Sort what is nearly sorted; false, and not sorted, where that takes more moves than `most`."""
    moves = 0
    for i in range(1, len(pairs)):
        pair, to = pairs[i], i
        while to > 0 and pairs[to - 1] > pair:
            pairs[to] = pairs[to - 1]
            to -= 1
        pairs[to] = pair
        moves += i - to
        if moves > most:
            return False
    return True


@kernel
def _by_digits(row, pairs, spare):  # type: ignore[no-untyped-def]
    """The pairs of a row, sorted, whatever its entries: a radix sort by 11, 10 and 10 bits, in one of two arrays."""
    bits, counts = row.view(np.uint32), np.zeros((3, 2048), np.int32)
    for i in range(len(row)):
        size = bits[i] & np.uint32(0x7FFFFFFF)
        pairs[i] = _pair(size, i)
        counts[0, size & np.uint32(0x7FF)] += 1
        counts[1, (size >> np.uint32(11)) & np.uint32(0x3FF)] += 1
        counts[2, size >> np.uint32(21)] += 1
    for digit in range(3):
        shift, mask = np.uint64(32 if digit == 0 else 33 + 10 * digit), np.uint64(0x7FF if digit == 0 else 0x3FF)
        places, before = counts[digit], np.int32(0)
        if places[0] == len(row):  # the low bits of rounded numbers
            continue
        for place in range(2048):
            before, places[place] = before + places[place], before
        for i in range(len(row)):
            place = (pairs[i] >> shift) & mask
            to = places[place]
            places[place] = to + 1
            spare[to] = pairs[i]
        pairs, spare = spare, pairs
    return pairs
