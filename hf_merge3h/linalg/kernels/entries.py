"""Loops over entries: reading, sums over tasks, elections, rounding."""

from __future__ import annotations

import numpy as np

from .compiled import RUN, kernel

_EXPONENT = np.uint32(0x7F800000)


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
def change(source, base, target):  # type: ignore[no-untyped-def]
    """bfloat16's or float32's bits as float32, less the base; whether all of the source are finite."""
    bits = np.empty(RUN, np.uint32)
    exact = bits.view(np.float32)
    finite = True
    for left in range(0, len(source), RUN):
        part, origin, out = source[left : left + RUN], base[left : left + RUN], target[left : left + RUN]
        finite &= widen(part, bits)
        for j in range(len(part)):
            out[j] = exact[j] - origin[j]
    return finite


@kernel
def narrow(merged, base, target):  # type: ignore[no-untyped-def]
    """merged + base (where there is one) to bfloat16, to the nearest, ties to even; whether all is finite."""
    exact = np.empty(RUN, np.float32)
    bits = exact.view(np.uint32)
    bad = np.uint32(0)
    for left in range(0, len(merged), RUN):
        part, place = merged[left : left + RUN], target[left : left + RUN]
        if len(base):
            origin = base[left : left + RUN]
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
    for left in range(0, rows.shape[1], RUN):
        out, weight = total[left : left + RUN], weights[0]
        part = rows[0, left : left + RUN]
        for j in range(len(out)):
            out[j] = part[j] * weight
        for t in range(1, rows.shape[0]):
            part, weight = rows[t, left : left + RUN], weights[t]
            for j in range(len(out)):
                out[j] += part[j] * weight


@kernel
def keep(rows, mask, factors, target):  # type: ignore[no-untyped-def]
    """rows[t] * mask[t] * factors[t], a mask of 0 and 1."""
    for t in range(rows.shape[0]):
        row, kept, factor, result = rows[t], mask[t], factors[t], target[t]
        for i in range(len(row)):
            result[i] = row[i] * np.float32(kept[i]) * factor


@kernel
def agree(rows, votes, weights, count, normalize, nothing, scale, total):  # type: ignore[no-untyped-def]
    """Elect a sign by votes[t] rows[t], add the terms weights[t] rows[t] that have it, divide by their weights, scale.

    `nothing` under 0 says that the weights may cancel; its magnitude is the bound of what cancels.
    """
    sign, divisor = np.empty(RUN, np.float32), np.empty(RUN, np.float32)
    zero, one, bound = np.float32(0), np.float32(1), abs(nothing)
    for left in range(0, rows.shape[1], RUN):
        out = total[left : left + RUN]
        size = len(out)
        for j in range(size):
            sign[j] = -zero
        for t in range(rows.shape[0]):
            part, vote = rows[t, left : left + RUN], votes[t]
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
            part, weight = rows[t, left : left + RUN], weights[t]
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
def variances(rows, factor, total):  # type: ignore[no-untyped-def]
    """The number of tasks times the variance over them, entry by entry; `factor` is 1 over that number."""
    mean = np.empty(RUN, np.float32)
    for left in range(0, rows.shape[1], RUN):
        out, first = total[left : left + RUN], rows[0, left : left + RUN]
        for j in range(len(out)):
            mean[j] = np.float32(-0.0)
        for t in range(1, rows.shape[0]):
            part = rows[t, left : left + RUN]
            for j in range(len(out)):
                mean[j] += part[j] - first[j]
        for j in range(len(out)):
            mean[j] *= factor
            out[j] = mean[j] * mean[j]
        for t in range(1, rows.shape[0]):
            part = rows[t, left : left + RUN]
            for j in range(len(out)):
                apart = (part[j] - first[j]) - mean[j]
                out[j] += apart * apart
