"""Several large decompositions at once, each on one core.

LAPACK's eigendecompositions and SVDs hardly gain from a second core; two of them side by side gain all of it. And with
another number of threads they give other bits, which of a large float32 matrix is 1e-5 of the result: so each has one,
whatever the number of cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def concurrently(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """What the jobs return, in order. Each runs on one thread, side by side as far as torch has been given threads.

    >>> concurrently([lambda: 1, lambda: 2])
    [1, 2]
    """
    return list(one_after_another(jobs))


def one_after_another(jobs: Sequence[Callable[[], T]]) -> Iterator[T]:
    """`concurrently`, each result as soon as it and all before it are there.

    An error, or an end of the loop over them, ends the jobs that have not begun.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(jobs))
    if workers < 2:
        with one_thread():
            yield from (job() for job in jobs)
        return
    gradients = torch.is_grad_enabled()

    def begin() -> None:
        torch.set_num_threads(1)  # of this worker; MKL's number is the process's, and is set back below
        torch.set_grad_enabled(gradients)

    pool = ThreadPoolExecutor(workers, initializer=begin)
    try:
        yield from pool.map(lambda job: job(), jobs)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


#: Operations (the cube of a matrix' side, times the batch) from which on a thread of its own is worth starting.
_WORTH_A_THREAD = 1 << 20


def side_by_side(jobs: Sequence[Callable[[], T]], of: Tensor) -> list[T]:
    """`concurrently` where that gains something: on the CPU, for batches `of` small matrices that are many.

    LAPACK takes a batch one by one, and in one matrix of this size more threads only wait for each other.
    """
    if of.device.type == "cpu" and of.numel() * of.shape[-1] >= _WORTH_A_THREAD:
        return concurrently(jobs)
    return [job() for job in jobs]


@contextmanager
def one_thread() -> Iterator[None]:
    """Small work gains nothing from more threads, and beside other processes their barriers cost seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def pieces(stack: Tensor) -> tuple[Tensor, ...]:
    """A batch in as many pieces as there are threads to work on them, at most (never one for each matrix as such)."""
    return stack.chunk(max(1, min(torch.get_num_threads(), len(stack))))
