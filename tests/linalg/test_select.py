"""Order statistics of a tensor that is read part by part: exact, whatever the numbers look like."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_merge3h.linalg import native, select
from hf_merge3h.linalg.select import StreamedRanks

CASES = {
    "normal": lambda n: torch.randn(n),
    "coarse": lambda n: torch.randn(n).mul(3).round(),
    "zeros": lambda n: torch.zeros(n),
    "mostly zeros": lambda n: torch.where(torch.rand(n) < 0.01, torch.randn(n), 0.0),
    "periodic": lambda n: (torch.arange(n) % 61 == 0).float() * 5 + torch.rand(n),
    "heavy": lambda n: torch.randn(n) ** 9,
}


@pytest.fixture(autouse=True, params=["compiled", "plain"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here holds with compiled loops and without."""
    monkeypatch.setattr(native, "_kernels", native._found() if request.param == "compiled" else None)


def streamed(vectors: torch.Tensor, ranks: Any, part: int = 1000) -> list[list[float]]:
    search = StreamedRanks(ranks, vectors.shape[-1])
    while (step := search.stride()) is not None:
        for piece in vectors.unsqueeze(1)[..., ::step].split(part, -1):
            search.add(search.look(0, piece))
    return search.found


@pytest.mark.parametrize("sampled", [1 << 15, 300])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", [1, 3, 100, 20000])
def test_it_is_the_kth_largest(case: str, n: int, sampled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_SAMPLED", sampled)
    torch.manual_seed(n)
    vectors = torch.stack([CASES[case](n), CASES["normal"](n)])
    ordered = vectors.abs().sort(descending=True).values
    for share in (0.0, 0.01, 0.2, 0.5, 0.99, 1.0):
        rank = max(1, int(share * n))
        other = max(1, n - rank)
        expected = [[ordered[0, rank - 1].item(), ordered[0, 0].item()], [ordered[1, other - 1].item()]]
        assert streamed(vectors, [(rank, 1), (other,)]) == expected, share


@pytest.mark.parametrize("sampled", [1 << 15, 300])
@pytest.mark.parametrize("case", CASES)
def test_a_rank_may_be_a_share_of_what_is_not_zero(case: str, sampled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_SAMPLED", sampled)
    torch.manual_seed(0)
    vectors = CASES[case](20000).unsqueeze(0)
    ordered, present = vectors[0].abs().sort(descending=True).values, int(vectors.count_nonzero())
    for share in (0.0, 0.01, 0.5, 0.999, 1.0):
        rank = max(1, int(share * present))
        found = streamed(vectors, lambda count, share=share: max(1, int(share * count)))
        assert found == [[ordered[rank - 1].item()]], share


def test_zeros_are_not_collected() -> None:
    search = StreamedRanks([(5,)], 100_000)
    sizes = torch.zeros(1, 1, 100_000)
    sizes[..., :3] = 1.0
    held = 0
    while (step := search.stride()) is not None:
        for piece in sizes[..., ::step].split(1000, -1):
            seen = search.look(0, piece)
            held += sum(
                len(values) for row in seen if isinstance(row, list) for *_, values in row if values is not None
            )
            search.add(seen)
    assert search.found == [[0.0]]
    assert held <= 3
