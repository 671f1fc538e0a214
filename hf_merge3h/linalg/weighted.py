"""Sums over tasks that give the same bits on every device and in every batch.

A reduction over the task axis (`sum`, `einsum`) may order or fuse its terms as it likes, and does so otherwise on a
GPU. Here tasks are added one after the other, by a product and a sum of their own. For the same reason nothing is
divided by a Python number: CUDA multiplies by its reciprocal, the CPU divides.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from . import native
from .low_rank import LowRank

_BLOCK = 1 << 17  # entries of all tasks together that an elementwise function takes at a time on a CPU


def in_blocks(
    function: Callable[[Tensor], Tensor], vectors: Float[Tensor, "task batch *shape"]
) -> Float[Tensor, "batch *shape"]:
    """An elementwise function of a stack: on a CPU in pieces that stay in its cache, with the same bits.

    >>> import torch
    >>> in_blocks(lambda part: part[0] + part[1], torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]))
    tensor([[4., 6.]])
    """
    if vectors.device.type != "cpu" or vectors.numel() <= 4 * _BLOCK:
        return function(vectors)
    tasks, batch = vectors.shape[:2]
    rows = vectors.reshape(tasks, batch, -1)
    width = max(1 << 12, _BLOCK // (tasks * batch))
    result = torch.empty_like(rows[0])
    for left in range(0, rows.shape[-1], width):
        result[:, left : left + width] = function(rows[..., left : left + width])
    return result.reshape(vectors.shape[1:])


def weighted_sum(vectors: Float[Tensor, "task *shape"], weights: Float[Tensor, "task"]) -> Float[Tensor, "*shape"]:
    """sum_t w_t x_t, tasks in order.

    >>> import torch
    >>> weighted_sum(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1.0, -1.0]))
    tensor([-2., -2.])
    """
    if native.takes(vectors, weights):
        return native.weighted_sum(vectors, weights)
    # `unbind` once: to iterate over a tensor costs a call of Python and a check for each row.
    (first, *vectors_left), (factor, *factors_left) = vectors.unbind(), weights.unbind()
    total = first * factor
    for vector, factor in zip(vectors_left, factors_left, strict=True):
        total += vector * factor
    return total


def combine(
    vectors: Float[Tensor, "task *shape"], coefficients: Float[Tensor, "task *coarse"]
) -> Float[Tensor, "*shape"]:
    """sum_t c_t x_t with coefficients that may differ within a tensor (they broadcast against it), tasks in order."""
    coefficients = coefficients.to(vectors)
    total = vectors[0] * coefficients[0]
    for vector, coefficient in zip(vectors[1:], coefficients[1:], strict=True):
        total += vector * coefficient
    return total


def weighted_cat(vectors: Sequence[LowRank], factors: Float[Tensor, "task"] | Float[Tensor, "task *batch"]) -> LowRank:
    """sum_t w_t B_t A_t as one product, exact: the factors side by side; weights may differ in a batch."""
    return LowRank.cat([vector * factor.to(vector.left) for vector, factor in zip(vectors, factors, strict=True)])


def in_order(values: Float[Tensor, "task *batch"]) -> Float[Tensor, "*batch"]:
    """sum_t v_t of small tensors, tasks in order."""
    first, *rest = values.unbind()
    return functools.reduce(torch.add, rest, first)


def shares(weights: Float[Tensor, "task"]) -> Float[Tensor, "task"]:
    """w_t / sum w."""
    return weights / in_order(weights)
