"""Loops compiled by numba: what `native` calls. Arrays are flat float32 (or bits of such), one row a task.

Each does in one reading what takes several operations of torch, entry by entry in the same order and without fused
multiply-and-add, so it gives the same bits. Loops run over runs of `_RUN` entries, whose scratch stays in the first
cache; inner loops have no branch, so that LLVM uses the vector unit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

_RUN = 2048
_LANES = 16  # partial sums, so that additions do not wait for each other

_EXPONENT = np.uint32(0x7F800000)
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on the first call, or take what an earlier process compiled; of a function that a test wraps, itself."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    plain = inspect.unwrap(function)
    try:
        return numba.njit(cache=True, **options)(plain)
    except RuntimeError:  # this user can write neither beside this file nor into a cache folder: compile each time
        return numba.njit(**options)(plain)


@kernel
def widen(source, target):  # type: ignore[no-untyped-def]
    """bfloat16's or float32's bits to float32's; whether all are finite."""
    bad, up = np.uint32(0), np.uint32(32 - 8 * source.itemsize)
    for i in range(len(source)):
        bits = np.uint32(source[i]) << up
        target[i] = bits
        bad |= np.uint32((bits & _EXPONENT) == _EXPONENT)
    return bad == 0


@kernel
def subtract(rows, base):  # type: ignore[no-untyped-def]
    """rows[t] -= base."""
    for t in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            rows[t, i] -= base[i]


@kernel
def narrow(merged, base, target):  # type: ignore[no-untyped-def]
    """merged + base (where there is one) to bfloat16, to the nearest, ties to even; whether all is finite."""
    exact = np.empty(_RUN, np.float32)
    bits = exact.view(np.uint32)
    bad = np.uint32(0)
    for left in range(0, len(merged), _RUN):
        part, place = merged[left : left + _RUN], target[left : left + _RUN]
        if len(base):
            origin = base[left : left + _RUN]
            for j in range(len(part)):
                exact[j] = part[j] + origin[j]
        else:
            for j in range(len(part)):
                exact[j] = part[j]
        for j in range(len(part)):
            each = bits[j]
            rounded = each + np.uint32(0x7FFF) + ((each >> np.uint32(16)) & np.uint32(1))
            place[j] = np.uint16(rounded >> np.uint32(16))
            bad |= np.uint32((each & _EXPONENT) == _EXPONENT) | np.uint32((rounded & _EXPONENT) == _EXPONENT)
    return bad == 0


@kernel
def weighted_sum(rows, weights, total):  # type: ignore[no-untyped-def]
    """total = sum_t w_t rows[t], tasks in order."""
    for left in range(0, rows.shape[1], _RUN):
        out, weight = total[left : left + _RUN], weights[0]
        part = rows[0, left : left + _RUN]
        for j in range(len(out)):
            out[j] = part[j] * weight
        for t in range(1, rows.shape[0]):
            part, weight = rows[t, left : left + _RUN], weights[t]
            for j in range(len(out)):
                out[j] += part[j] * weight


@kernel
def uniform(key, start, target):  # type: ignore[no-untyped-def]
    """Numbers in [0, 1): the upper 24 bits of SplitMix64's outputs, times 2^-24."""
    for i in range(len(target)):
        word = key + (start + np.uint64(i) + np.uint64(1)) * _GAMMA
        word = (word ^ (word >> np.uint64(30))) * _MIX_1
        word = (word ^ (word >> np.uint64(27))) * _MIX_2
        target[i] = np.float32(np.int32(word >> np.uint64(40))) * np.float32(2.0**-24)


@kernel
def bernoulli(key, start, limit, target):  # type: ignore[no-untyped-def]
    """Where SplitMix64's outputs are less than a limit."""
    for i in range(len(target)):
        word = key + (start + np.uint64(i) + np.uint64(1)) * _GAMMA
        word = (word ^ (word >> np.uint64(30))) * _MIX_1
        word = (word ^ (word >> np.uint64(27))) * _MIX_2
        target[i] = word < limit


@kernel
def keep(values, mask, target):  # type: ignore[no-untyped-def]
    """values * mask, a mask of 0 and 1."""
    for i in range(len(values)):
        target[i] = values[i] * np.float32(mask[i])


@kernel
def agree(rows, votes, weights, count, normalize, nothing, scale, total):  # type: ignore[no-untyped-def]
    """Elect a sign by votes[t] rows[t], add the terms weights[t] rows[t] that have it, divide by their weights, scale.

    `nothing` under 0 says that the weights may cancel; its magnitude is the bound of what cancels.
    """
    sign, divisor = np.empty(_RUN, np.float32), np.empty(_RUN, np.float32)
    zero, one, bound = np.float32(0), np.float32(1), abs(nothing)
    for left in range(0, rows.shape[1], _RUN):
        out = total[left : left + _RUN]
        size = len(out)
        for j in range(size):
            sign[j] = -zero
        for t in range(rows.shape[0]):
            part, vote = rows[t, left : left + _RUN], votes[t]
            if count:
                for j in range(size):
                    term = part[j] * vote
                    sign[j] += (one if term > zero else zero) - (one if term < zero else zero)
            else:
                for j in range(size):
                    sign[j] += part[j] * vote
        for j in range(size):
            sign[j] = one if sign[j] >= zero else -one
            divisor[j] = zero
            out[j] = zero
        for t in range(rows.shape[0]):
            part, weight = rows[t, left : left + _RUN], weights[t]
            for j in range(size):
                term = part[j] * weight * sign[j]
                out[j] += term if term > zero else zero
                divisor[j] += weight if term > zero else zero
        if normalize and nothing > zero:
            for j in range(size):
                out[j] = out[j] * sign[j] / (divisor[j] if divisor[j] > bound else bound)
        elif normalize:
            for j in range(size):
                out[j] = out[j] * sign[j] / (divisor[j] if abs(divisor[j]) > bound else one)
        else:
            for j in range(size):
                out[j] *= sign[j]
        if scale != one:
            for j in range(size):
                out[j] *= scale


@kernel
def magnitudes(row):  # type: ignore[no-untyped-def]
    """Sum of the magnitudes, float64."""
    sums = np.zeros(_RUN)
    for left in range(0, len(row), _RUN):
        part = row[left : left + _RUN]
        for j in range(len(part)):
            sums[j] += np.float64(abs(part[j]))
    return sums.sum()


@kernel
def product(one, other):  # type: ignore[no-untyped-def]
    """Inner product, float64."""
    sums = np.zeros(_RUN)
    for left in range(0, len(one), _RUN):
        part, others = one[left : left + _RUN], other[left : left + _RUN]
        for j in range(len(part)):
            sums[j] += np.float64(part[j]) * np.float64(others[j])
    return sums.sum()


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


@kernel
def variances(rows, factor, total):  # type: ignore[no-untyped-def]
    """The number of tasks times the variance over them, entry by entry; `factor` is 1 over that number."""
    mean = np.empty(_RUN, np.float32)
    for left in range(0, rows.shape[1], _RUN):
        out, first = total[left : left + _RUN], rows[0, left : left + _RUN]
        for j in range(len(out)):
            mean[j] = np.float32(-0.0)
        for t in range(1, rows.shape[0]):
            part = rows[t, left : left + _RUN]
            for j in range(len(out)):
                mean[j] += part[j] - first[j]
        for j in range(len(out)):
            mean[j] *= factor
            out[j] = mean[j] * mean[j]
        for t in range(1, rows.shape[0]):
            part = rows[t, left : left + _RUN]
            for j in range(len(out)):
                apart = (part[j] - first[j]) - mean[j]
                out[j] += apart * apart


@kernel
def by_rank(rows, values, target):  # type: ignore[no-untyped-def]
    """target[r, i] = values[rank of |rows[r, i]| in its row], equal ones in order: a radix sort by 11, 10 and 10 bits.

    A magnitude's bits and its place move as one number. Lowest bits that are all zero are passed over.
    """
    n = rows.shape[1]
    pairs, sorted_pairs = np.empty(n, np.uint64), np.empty(n, np.uint64)
    counts = np.empty((3, 2048), np.int32)
    for r in range(rows.shape[0]):
        row, result = rows[r], target[r]
        counts[0], counts[1, :1024], counts[2, :1024] = 0, 0, 0
        for i in range(n):
            bits = row[i] & np.uint32(0x7FFFFFFF)
            pairs[i] = (np.uint64(bits) << np.uint64(32)) | np.uint64(i)
            counts[0, bits & np.uint32(0x7FF)] += 1
            counts[1, (bits >> np.uint32(11)) & np.uint32(0x3FF)] += 1
            counts[2, bits >> np.uint32(21)] += 1
        for digit in range(3):
            shift, mask = np.uint64(32 if digit == 0 else 33 + 10 * digit), np.uint64(0x7FF if digit == 0 else 0x3FF)
            places = counts[digit]
            if digit == 0 and places[0] == n:
                continue
            before = np.int32(0)
            for place in range(2048 if digit == 0 else 1024):
                before, places[place] = before + places[place], before
            for i in range(n):
                pair = pairs[i]
                place = (pair >> shift) & mask
                to = places[place]
                places[place] = to + 1
                if digit < 2:
                    sorted_pairs[to] = pair
                else:
                    result[np.uint32(pair)] = values[to]
            pairs, sorted_pairs = sorted_pairs, pairs
