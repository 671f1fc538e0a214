"""Loops over entries as they are stored, bfloat16 or float32: read, and read and added up."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from .compiled import LANES, RUN, kernel

SIGNLESS = np.uint32(0x7FFFFFFF)
_INFINITE = np.uint32(0x7F800000)
ROUNDED_UP = np.uint32(0x7F7F8000)  # from here on, the nearest bfloat16 is infinite


@intrinsic
def _pointer(typing: Any, address: Any, like: Any) -> Any:
    """An address as a pointer to what an array holds: a tuple of arrays would be compiled anew for each length."""
    pointer = types.CPointer(like.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(address, like), generate


@kernel
def entries_at(address, left, count, like):  # type: ignore[no-untyped-def]
    """Some of the entries that lie at an address, of an array's kind."""
    first = address + np.uint64(left) * np.uint64(like.itemsize)
    return carray(_pointer(first, like), count)  # type: ignore[call-arg]  # the first argument is numba's own


@kernel
def exact(stored, up):  # type: ignore[no-untyped-def]
    """Bits of bfloat16 (up = 16) or float32 (up = 0) as float32."""
    return np.uint32(np.uint32(stored) << up).view(np.float32)


@kernel
def nearest(bits):  # type: ignore[no-untyped-def]
    """float32's bits to bfloat16's, ties to even."""
    return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@kernel
def widen(source, target):  # type: ignore[no-untyped-def]
    """bfloat16's or float32's bits to float32's; whether all are finite."""
    most, up = np.uint32(0), np.uint32(32 - 8 * source.itemsize)
    for i in range(len(source)):
        bits = np.uint32(np.uint32(source[i]) << up)
        target[i] = bits
        most = max(most, np.uint32(bits & SIGNLESS))
    return most < _INFINITE


@kernel
def change(source, base, target):  # type: ignore[no-untyped-def]
    """bfloat16's or float32's bits as float32, less the base; whether all of the source are finite."""
    most, up = np.uint32(0), np.uint32(32 - 8 * source.itemsize)
    for i in range(len(source)):
        bits = np.uint32(np.uint32(source[i]) << up)
        target[i] = bits.view(np.float32) - base[i]
        most = max(most, np.uint32(bits & SIGNLESS))
    return most < _INFINITE


@kernel
def narrow(merged, base, target):  # type: ignore[no-untyped-def]
    """merged + base (where there is one) to bfloat16, to the nearest, ties to even; whether all is finite."""
    most = np.uint32(0)
    if len(base):
        for i in range(len(merged)):
            bits = np.float32(merged[i] + base[i]).view(np.uint32)
            target[i] = nearest(bits)
            most = max(most, np.uint32(bits & SIGNLESS))
    else:
        for i in range(len(merged)):
            bits = np.float32(merged[i]).view(np.uint32)
            target[i] = nearest(bits)
            most = max(most, np.uint32(bits & SIGNLESS))
    return most < ROUNDED_UP


@kernel
def average(addresses, base, weights, ratio, target):  # type: ignore[no-untyped-def]
    """ratio * sum_t w_t (x_t - base) + base (if it is not empty) to bfloat16, as `narrow` does, in one reading.

    The x_t lie at addresses, as many entries of the base's kind as the target has. Whether all of the result is finite,
    which it is only if all that was read is.
    """
    total = np.empty(RUN, np.float32)
    most, up = np.uint32(0), np.uint32(32 - 8 * base.itemsize)
    for left in range(0, len(target), RUN):
        place, origin = target[left : left + RUN], base[left : left + RUN]
        total[:] = -np.float32(0)
        for t in range(len(addresses)):
            part, weight = entries_at(addresses[t], left, len(place), base), weights[t]
            if len(base):
                for j in range(len(place)):
                    total[j] += (exact(part[j], up) - exact(origin[j], up)) * weight
            else:
                for j in range(len(place)):
                    total[j] += exact(part[j], up) * weight
        for j in range(len(place)):
            total[j] *= ratio
        if len(base):
            for j in range(len(place)):
                total[j] += exact(origin[j], up)
        for j in range(len(place)):
            bits = np.float32(total[j]).view(np.uint32)
            place[j] = nearest(bits)
            most = max(most, np.uint32(bits & SIGNLESS))
    return most < ROUNDED_UP


# A product of two float32 is exact in float64, so that fused with the addition it gives the same bits.
@functools.partial(kernel, fastmath={"contract"})
def products(addresses, size, base, block, found):  # type: ignore[no-untyped-def]
    """`sums.gram` of x_t - base (if it is not empty) for each block, in one reading, with the same bits."""
    tasks, up = len(addresses), np.uint32(32 - 8 * base.itemsize)
    sums, rows = np.empty((tasks, tasks, LANES)), np.empty((tasks, RUN), np.float32)
    for number in range(len(found)):
        sums[:] = 0
        end = min(size, (number + 1) * block)
        for begin in range(number * block, end, RUN):
            count, origin = min(RUN, end - begin), base[begin : begin + RUN]
            for t in range(tasks):
                part, row = entries_at(addresses[t], begin, count, base), rows[t]
                if len(base):
                    for j in range(count):
                        row[j] = exact(part[j], up) - exact(origin[j], up)
                else:
                    for j in range(count):
                        row[j] = exact(part[j], up)
            for left in range(0, count, LANES):
                lanes = min(LANES, count - left)
                for t in range(tasks):
                    one = rows[t, left : left + lanes]
                    for s in range(t + 1):
                        other, total = rows[s, left : left + lanes], sums[t, s]
                        for j in range(lanes):
                            total[j] += np.float64(one[j]) * np.float64(other[j])
        for t in range(tasks):
            for s in range(t + 1):
                found[number, t, s] = found[number, s, t] = sums[t, s].sum()
