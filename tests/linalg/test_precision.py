"""What is finite, by bit patterns, is what torch says is finite."""

from __future__ import annotations

import pytest
import torch

from hf_merge3h.linalg.precision import all_finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_kind_of_number(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    fine = torch.tensor([0.0, -0.0, limits.max, limits.min, limits.tiny, -limits.tiny, 1.5], dtype=dtype)
    assert all_finite(fine)
    assert all_finite(fine[::2])
    assert all_finite(fine[:0])
    for value in (torch.inf, -torch.inf, torch.nan, -torch.nan):
        broken = fine.clone()
        broken[3] = value
        assert not all_finite(broken), value
        assert not all_finite(broken[1::2]), value


def test_dtypes_without_a_pattern() -> None:
    assert all_finite(torch.tensor([1, 2]))
    assert all_finite(torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn))
    assert not all_finite(torch.tensor([1.0, torch.nan]).to(torch.float8_e4m3fn))
