"""Sums over a tensor that do not depend on how it is read.

A float sum depends on the order of its terms. What a method adds up over a whole tensor (inner products, squares,
magnitudes) is therefore added up over fixed blocks, and the blocks in order, whether the tensor lies in memory or is
read part by part, in float64; so both give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from . import native
from .precision import double

BLOCK = 1 << 16  # entries of one task: some of these blocks at a time stay in the cache of a core


def block_of(unit: int) -> int:
    """Entries of a block that is made of whole units.

    >>> block_of(1), block_of(3 << 14), block_of(1 << 20)
    (65536, 49152, 1048576)
    """
    return max(1, BLOCK // unit) * unit


def squares(block: Float[Tensor, "task 1 n"]) -> Float[Tensor, "task"]:
    """Sum of the squares of each task's part, float64.

    >>> squares(torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]]]))
    tensor([25.,  1.], dtype=torch.float64)
    """
    rows = block[:, 0].unbind()
    if native.takes(*rows):
        return native.squares(rows)
    return torch.stack([torch.dot(row, row) for row in block[:, 0].double()])


def magnitudes(block: Float[Tensor, "task 1 n"]) -> Float[Tensor, "task"]:
    """Sum of the magnitudes of each task's part, float64.

    >>> magnitudes(torch.tensor([[[3.0, -4.0]], [[1.0, 0.0]]]))
    tensor([7., 1.], dtype=torch.float64)
    """
    rows = block[:, 0].unbind()
    if native.takes(*rows):
        return native.magnitudes(rows)
    return torch.stack([row.abs().sum(dtype=torch.float64) for row in rows])


def gram_of_block(block: Float[Tensor, "task 1 n"]) -> Float[Tensor, "task task"]:
    """Inner products of the tasks' parts, float64.

    >>> gram_of_block(torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]]]))
    tensor([[25.,  3.],
            [ 3.,  1.]], dtype=torch.float64)
    """
    rows = block[:, 0]
    if native.takes(rows):
        return native.gram(rows)
    doubled = rows.double()
    return doubled @ doubled.mT


def over_blocks(
    measure: Callable[[Float[Tensor, "task 1 n"]], Tensor], vectors: Float[Tensor, "task batch *shape"], unit: int = 1
) -> Float[Tensor, "*sums batch"]:
    """The sum of `measure(block)` over the blocks of each tensor of the batch, in order, on the CPU.

    >>> over_blocks(gram_of_block, torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]]]))[..., 0]
    tensor([[25.,  3.],
            [ 3.,  1.]], dtype=torch.float64)
    """
    rows = vectors.flatten(2) if vectors.ndim > 2 else vectors.unsqueeze(-1)
    sums, size = [], block_of(unit)
    for index in range(rows.shape[1]):
        total: Tensor | float = 0.0
        for start in range(0, rows.shape[-1], size):
            total = total + measure(rows[:, index : index + 1, start : start + size])
        sums.append(total if isinstance(total, Tensor) else torch.zeros_like(measure(rows[:, :1])))
    return torch.stack(sums, -1)


def gram(vectors: Float[Tensor, "task batch *shape"]) -> Float[Tensor, "task task batch"]:
    """Inner products of whole tensors, float64: on the CPU block by block."""
    if vectors.device.type == "cpu" and vectors.dtype == torch.float32:
        return over_blocks(gram_of_block, vectors)
    rows = double(vectors.flatten(2) if vectors.ndim > 2 else vectors.unsqueeze(-1))
    return torch.stack([torch.stack([(left * right).sum(-1) for right in rows]) for left in rows])
