"""Order statistics of a tensor that is read part by part: exact, whatever the numbers look like."""

from __future__ import annotations

import pytest
import torch

from hf_merge3h.linalg import select
from hf_merge3h.linalg.select import StreamedRanks

CASES = {
    "normal": lambda n: torch.randn(n),
    "coarse": lambda n: torch.randn(n).mul(3).round(),
    "zeros": lambda n: torch.zeros(n),
    "mostly zeros": lambda n: torch.where(torch.rand(n) < 0.01, torch.randn(n), 0.0),
    "periodic": lambda n: (torch.arange(n) % 61 == 0).float() * 5 + torch.rand(n),
    "heavy": lambda n: torch.randn(n) ** 9,
}


def streamed(vectors: torch.Tensor, ranks: list[tuple[int, ...]], part: int = 1000) -> list[list[float]]:
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
