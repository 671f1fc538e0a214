"""Jobs side by side: their order, their errors, and the threads they leave behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from hf_merge3h.linalg.parallel import one_after_another


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
def test_results_come_in_order() -> None:
    assert list(one_after_another([partial(int, number) for number in range(20)])) == list(range(20))


@pytest.mark.usefixtures("_threads")
def test_an_error_ends_what_has_not_begun() -> None:
    begun: list[int] = []

    def job(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise ZeroDivisionError
        return number

    with pytest.raises(ZeroDivisionError):
        list(one_after_another([partial(job, number) for number in range(1000)]))
    assert len(begun) < 1000


@pytest.mark.usefixtures("_threads")
def test_leaving_the_loop_ends_what_has_not_begun() -> None:
    begun: list[int] = []
    gate = threading.Event()

    def job(number: int) -> int:
        begun.append(number)
        if number > 2:
            gate.wait(0.2)
        return number

    results = one_after_another([partial(job, number) for number in range(100)])
    assert next(results) == 0
    gate.set()
    results.close()  # type: ignore[attr-defined]
    assert len(begun) < 100
