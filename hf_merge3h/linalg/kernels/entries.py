"""Loops over entries that were read: sums over tasks, elections, variances."""

from __future__ import annotations

import numpy as np

from .compiled import RUN, kernel


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
