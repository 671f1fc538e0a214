"""Compiled loops for the CPU, where numba is installed (extra `fast`): the same bits, in a fraction of the time.

An operation of torch reads and writes all of its entries; what a method does with a block are ten or twenty of them.
A compiled loop does them in one. Importing numba takes half a second, so a merge asks for it (`load`) where there is
enough to do; the functions that have such a loop ask `takes` whether to use it. Which way was taken does not show in
the result: entries are computed by the same operations in the same order, and sums are taken in float64.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

CANCELLED = 1e-6  # agreeing weights that add up to less than this share of the largest one cancel

#: Dtypes that the loops read as they are stored: as which integers torch and numpy see them.
STORED = {torch.bfloat16: (torch.int16, np.uint16), torch.float32: (torch.int32, np.uint32)}

_WORTH_IT = 1 << 24  # entries of a merge from which on numba's import is paid back
_kernels: ModuleType | None = None


def load(entries: int) -> bool:
    """Use compiled loops from now on, if a merge of so many entries is worth it; whether they are used.

    The first use on a machine compiles them (some seconds a merge), later ones find them in numba's cache.
    """
    global _kernels
    if _kernels is None and entries >= _WORTH_IT:
        _kernels = _found()
    return _kernels is not None


@functools.cache
def _found() -> ModuleType | None:
    if importlib.util.find_spec("numba") is None:
        return None
    kernels = importlib.import_module(".kernels", __package__)
    kernels.magnitudes(np.zeros(1, np.float32))  # numba's own start, which forked workers then need not repeat
    return kernels


def loaded() -> bool:
    """Whether compiled loops are used."""
    return _kernels is not None


def takes(*tensors: Tensor) -> bool:
    """Whether compiled loops are used and can have these: float32, on the CPU, contiguous."""
    return _kernels is not None and all(
        each.device.type == "cpu" and each.dtype == torch.float32 and each.is_contiguous() for each in tensors
    )


def loops() -> ModuleType:
    """The compiled loops; ask `takes` first."""
    assert _kernels is not None, "ask `takes` first"
    return _kernels


def bits(flat: Tensor) -> np.ndarray:
    """The bit patterns of a tensor whose dtype is `STORED`: uint16 or uint32."""
    signed, unsigned = STORED[flat.dtype]
    return flat.view(signed).numpy().view(unsigned)


def _rows(stack: Float[Tensor, "task *shape"]) -> np.ndarray:
    """[task, entries]"""
    return stack.detach().reshape(len(stack), -1).numpy()


def weighted_sum(vectors: Float[Tensor, "task *shape"], weights: Float[Tensor, "task"]) -> Float[Tensor, "*shape"]:
    """sum_t w_t x_t, tasks in order."""
    total = torch.empty_like(vectors[0])
    loops().weighted_sum(_rows(vectors), weights.numpy(), total.reshape(-1).numpy())
    return total


def uniform(key: int, start: int, target: Float[Tensor, "n"]) -> None:
    """Numbers in [0, 1): the upper 24 bits of SplitMix64's outputs from `start` on."""
    loops().uniform(_unsigned(key), np.uint64(start), target.numpy())


def bernoulli(key: int, start: int, limit: int, target: Tensor) -> None:
    """True where SplitMix64's outputs from `start` on are less than `limit`."""
    loops().bernoulli(_unsigned(key), np.uint64(start), np.uint64(limit), target.numpy())


def _unsigned(key: int) -> np.uint64:
    return np.uint64(key % (1 << 64))


def drop_by_lot(
    entries: Float[Tensor, "*shape"], key: int, start: int, density: float, factor: float, target: Tensor
) -> None:
    """Write the entries times a factor where `bernoulli` is true, else 0."""
    limit = np.uint64(math.ceil(density * (1 << 24)))
    loops().drop_by_lot(
        entries.reshape(-1).numpy(), _unsigned(key), np.uint64(start), limit, np.float32(factor),
        target.view(-1).numpy(),
    )  # fmt: skip


def drop_by_rank(
    rows: Float[Tensor, "row n"],
    key: int,
    start: int,
    probabilities: Float[Tensor, "n"],
    factors: Float[Tensor, "n"],
    target: Float[Tensor, "row n"],
) -> None:
    """Write each entry times the factor at its rank where `uniform` is less than the probability there, else 0."""
    loops().drop_by_rank(
        rows.numpy(), _unsigned(key), np.uint64(start), probabilities.numpy(), factors.numpy(), target.numpy()
    )


def keep(
    vectors: Float[Tensor, "task batch n"], mask: Bool[Tensor, "task batch n"], factors: Float[Tensor, "task batch"]
) -> Float[Tensor, "task batch n"]:
    """The vectors times a mask and factors."""
    result, n = torch.empty_like(vectors), vectors.shape[-1]
    loops().keep(
        vectors.reshape(-1, n).numpy(), mask.reshape(-1, n).numpy().view(np.uint8), factors.reshape(-1).numpy(),
        result.view(-1, n).numpy(),
    )  # fmt: skip
    return result


def agree(
    vectors: Float[Tensor, "task *shape"],
    votes: Float[Tensor, "task"],
    weights: Float[Tensor, "task"],
    election: str,
    *,
    normalize: bool,
    scale: float = 1.0,
) -> Float[Tensor, "*shape"]:
    """scale * `signs.agreeing_sum` of the terms w_t x_t, with the signs that `signs.elect` finds in v_t x_t.

    Args:
        vectors: task vectors; they are left as they are.
        votes: with what each expert votes.
        weights: with what it counts.
        election: "sum", or "count" of the experts on each side.
        normalize: divide by the weights that agree.
        scale: factor of the result.
    """
    total = torch.empty_like(vectors[0])
    nothing = float(CANCELLED * weights.abs().amax())
    bound = np.float32(nothing if float(weights.amin()) > nothing else -nothing)  # under 0: they may cancel
    loops().agree(
        _rows(vectors), votes.numpy(), weights.numpy(), election == "count", normalize, bound, np.float32(scale),
        total.reshape(-1).numpy(),
    )  # fmt: skip
    return total


def magnitudes(rows: Sequence[Float[Tensor, "n"]]) -> Float64[Tensor, "task"]:
    """Sums of magnitudes."""
    return torch.tensor([loops().magnitudes(row.numpy()) for row in rows], dtype=torch.float64)


def squares(rows: Sequence[Float[Tensor, "n"]]) -> Float64[Tensor, "task"]:
    """Sums of squares."""
    return torch.tensor([loops().squares(row.numpy()) for row in rows], dtype=torch.float64)


def gram(rows: Float[Tensor, "task n"]) -> Float64[Tensor, "task task"]:
    """Inner products."""
    found = np.empty((len(rows), len(rows)))
    loops().gram(rows.numpy(), found)
    return torch.from_numpy(found)


def within(values: np.ndarray, low: float, high: float) -> tuple[int, int, np.ndarray]:
    """How many magnitudes exceed `high`, how many others reach `low` without being 0, and these if they differ."""
    chosen = np.empty(len(values), np.float32)
    least = max(np.float32(low), np.nextafter(np.float32(0), np.float32(1)))
    above, inside = loops().within(values, least, np.float32(high), chosen)
    return above, inside, chosen[:inside].copy()


def variances(vectors: Float[Tensor, "task *shape"]) -> Float[Tensor, "*shape"]:
    """The number of tasks times the variance over them, entry by entry."""
    total = torch.empty_like(vectors[0])
    loops().variances(_rows(vectors), np.float32(1.0 / len(vectors)), total.reshape(-1).numpy())
    return total
