import pytest
import torch

from hf_merge3h.linalg.polar import polar, polar_in_span
from hf_merge3h.linalg.precision import EPS


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_svd(basis):
    left, values, right = torch.linalg.svd(basis, full_matrices=False)
    keep = values > max(basis.shape[-2:]) * EPS * values[..., :1]
    return (left * keep.unsqueeze(-2)) @ right


@pytest.mark.parametrize("shape", [(8, 8), (20, 6), (5, 1), (300, 40)])
def test_polar_is_that_of_the_svd(shape):
    basis = noise(2, *shape)
    assert torch.allclose(polar(basis), by_svd(basis), atol=1e-9)


def test_ill_conditioned_but_of_full_rank():
    left, right = torch.linalg.qr(noise(40, 12)).Q, torch.linalg.qr(noise(12, 12, seed=1)).Q
    basis = left * torch.logspace(0, -4, 12, dtype=torch.float64) @ right
    assert torch.allclose(polar(basis), left @ right, atol=1e-7)


def test_a_basis_without_full_rank_gives_a_partial_isometry():
    basis = noise(10, 3) @ noise(3, 6, seed=1)
    got = polar(basis)
    assert torch.allclose(got, by_svd(basis), atol=1e-8)
    assert torch.allclose(polar(basis + 1e-13 * noise(10, 6, seed=2)), got, atol=1e-9)


def test_zero_columns_stay_exactly_zero_and_change_nothing():
    basis = noise(9, 4)
    padded = torch.zeros(9, 7, dtype=torch.float64)
    padded[:, [0, 2, 3, 6]] = basis
    got = polar(padded)
    assert not got[:, [1, 4, 5]].any()
    assert torch.allclose(got[:, [0, 2, 3, 6]], polar(basis), atol=1e-12)
    assert not polar(torch.zeros(2, 5, 3)).any()
    assert polar(torch.zeros(2, 5, 0)).shape == (2, 5, 0)


def test_in_a_span_it_is_the_same():
    span, coefficients = noise(2, 30, 7), noise(2, 7, 5, seed=1)
    got = span @ polar_in_span(coefficients, span.mT @ span, 30)
    assert torch.allclose(got, polar(span @ coefficients), atol=1e-8)
