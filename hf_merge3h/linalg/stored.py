"""Tensors as they are stored, read in blocks by compiled loops (`linalg.native`), or added up while they are read.

A block of float32 for each expert does not fit into a core's own cache beside what is made of it. Where a merge comes
to a sum (`passes.Weighted`, `passes.Products`), it is taken entry by entry from the stored bits instead, with the same
operations in the same order, so with the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from . import native
from .figures import Accumulated, Figures
from .native import STORED, bits


def reads(tensors: Sequence[Tensor]) -> bool:
    """Whether compiled loops are used and can read these: bfloat16 or float32, on the CPU, contiguous."""
    return native.loaded() and all(
        each.dtype in STORED and each.device.type == "cpu" and each.is_contiguous() for each in tensors
    )


class Reader:
    """Reads blocks of flat tensors as float32, less a base's where there is one.

    Its arrays are made once: of a block of 65,536 entries they would take as long as the loops themselves.

    Args:
        flat: what `reads` takes.
        base: another one, or None.
        subtract: whether to take the base from the others.
    """

    def __init__(self, flat: Sequence[Tensor], base: Tensor | None, *, subtract: bool) -> None:
        self._sources = [bits(each) for each in flat]
        self._base = None if base is None else bits(base)
        self._subtract = subtract
        self._size = -1

    def __call__(self, start: int, size: int) -> tuple[Float[Tensor, "task 1 n"], Float[Tensor, "n"] | None, bool]:
        """A block, the base's, and whether all that was read is finite; the next call overwrites them."""
        loops = native.loops()
        if size != self._size:
            self._size = size
            self._stack, self._origin = torch.empty(len(self._sources), 1, size), torch.empty(size)
            self._rows, self._under = list(self._stack[:, 0].numpy()), self._origin.numpy()
        end, origin, finite = start + size, None, True
        if self._base is not None:
            origin = self._origin
            finite &= loops.widen(self._base[start:end], self._under.view(np.uint32))
        for source, row in zip(self._sources, self._rows, strict=True):
            if origin is not None and self._subtract:
                finite &= loops.change(source[start:end], self._under, row)
            else:
                finite &= loops.widen(source[start:end], row.view(np.uint32))
        return self._stack, origin, bool(finite)


class Sums:
    """Sums over flat tensors, less a base's where there is one. Several threads may ask at once.

    Args:
        flat: what `reads` takes, all of one dtype.
        base: another one of that dtype, or None.
        subtract: whether to take the base from the others; else it is only what merges are measured from.
    """

    def __init__(self, flat: Sequence[Tensor], base: Tensor | None, *, subtract: bool = True) -> None:
        self._flat, self._entries = flat, len(flat[0])  # as long as these are held, their addresses hold
        assert all(len(each) == self._entries for each in flat), "of one length"
        self._addresses = np.array([each.data_ptr() for each in flat], np.uint64)
        self._origin, self._subtract = None if base is None else bits(base), subtract
        self._base = bits(flat[0])[:0] if self._origin is None or not subtract else self._origin

    @staticmethod
    def of(flat: Sequence[Tensor], base: Tensor | None, *, subtract: bool = True) -> Sums | None:
        """The sums; None where there are no compiled loops for these."""
        tensors = [*flat] if base is None else [*flat, base]
        one = len({each.dtype for each in tensors}) == 1
        return Sums(flat, base, subtract=subtract) if one and reads(tensors) else None

    def products(self, start: int, size: int, block: int) -> Float64[Tensor, "block task task"]:
        """Inner products of each block (the last may be shorter): `blocks.gram_of_block`."""
        found = np.empty((-(-size // block), len(self._flat), len(self._flat)))
        native.loops().products(self._at(start, size), size, self._base[start : start + size], block, found)
        return torch.from_numpy(found)

    def average(self, start: int, weights: Float[Tensor, "task"], ratio: float, target: Tensor) -> bool:
        """Write ratio * sum_t w_t x_t + base, rounded to the target's bfloat16; whether all of it is finite.

        It is not, if anything that was read is not.
        """
        size = len(target)
        return bool(
            native.loops().average(
                self._at(start, size), self._base[start : start + size], weights.numpy(), np.float32(ratio),
                bits(target),
            )
        )  # fmt: skip

    def average_measured(
        self, start: int, weights: Float[Tensor, "task"], ratio: float, target: Tensor
    ) -> tuple[bool, Figures]:
        """`average`, and what it did to the base, which must be there (and finite)."""
        assert self._origin is not None, "there is a base"
        sums, size = Accumulated(len(self._flat)), len(target)
        fits = native.loops().average_measured(
            self._at(start, size), self._origin[start : start + size], not self._subtract, weights.numpy(),
            np.float32(ratio), bits(target), sums.gram, sums.counts,
        )  # fmt: skip
        return bool(fits), sums.figures()

    def _at(self, start: int, size: int) -> np.ndarray:
        """Where a block begins in each tensor."""
        assert 0 <= start <= start + size <= self._entries, "within the tensors"
        return self._addresses + np.uint64(start * self._flat[0].itemsize)


def narrow(merged: Float[Tensor, "n"], base: Float[Tensor, "n"] | None, target: Tensor) -> bool:
    """Write merged + base, rounded to the target's bfloat16; whether all of it is finite."""
    origin = np.empty(0, np.float32) if base is None else base.numpy()
    return bool(native.loops().narrow(merged.numpy(), origin, bits(target)))
