"""Loops compiled by numba: what `native` calls. Arrays are flat float32 (or bits of such), one row a task.

Each does in one reading what takes several operations of torch, entry by entry in the same order and without fused
multiply-and-add, so it gives the same bits. Loops go over runs of entries whose scratch stays in the first cache; inner
loops have no branch, so that LLVM uses the vector unit.
"""

from __future__ import annotations

from .entries import agree, keep, variances, weighted_sum
from .figures import average_measured, measured
from .masks import bernoulli, drop_by_lot, drop_by_rank, uniform
from .stored import average, change, narrow, products, widen
from .sums import gram, magnitudes, squares, within

__all__ = [
    "agree",
    "average",
    "average_measured",
    "bernoulli",
    "change",
    "drop_by_lot",
    "drop_by_rank",
    "gram",
    "keep",
    "magnitudes",
    "measured",
    "narrow",
    "products",
    "squares",
    "uniform",
    "variances",
    "weighted_sum",
    "widen",
    "within",
]
