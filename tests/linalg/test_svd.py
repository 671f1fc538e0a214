import math

import pytest
import torch

from hf_merge3h.linalg.precision import EPS, double, safe_inverse
from hf_merge3h.linalg.svd import block_diagonal, factored_triplets, first_triplets, leading_triplets


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(basis):
    gram = basis.mT @ basis
    return torch.allclose(gram, torch.eye(gram.shape[-1], dtype=gram.dtype), atol=1e-8)


@pytest.mark.parametrize("shape", [(7, 7), (12, 5), (5, 12), (1, 6)])
def test_leading_triplets_are_those_of_lapack(shape):
    matrix = noise(3, *shape)
    k = min(shape)
    left, values, right = leading_triplets(matrix, k)
    assert torch.allclose(values, torch.linalg.svdvals(matrix), rtol=1e-9)
    assert torch.allclose((left * values.unsqueeze(-2)) @ right.mT, matrix, atol=1e-9)
    assert orthonormal(left)
    assert orthonormal(right)
    fewer = leading_triplets(matrix, max(1, k - 2))
    assert torch.equal(fewer.values, values[..., : max(1, k - 2)])


def test_values_under_the_rank_are_dropped():
    m, n = 20, 10
    values = torch.tensor([1.0, 1e-2, 10 * m * EPS, 0.1 * m * EPS, 0.0], dtype=torch.float64)
    left, right = torch.linalg.qr(noise(m, 5)).Q, torch.linalg.qr(noise(n, 5, seed=1)).Q
    found = leading_triplets(left * values @ right.mT, n)
    assert (found.values > 0).sum() == 3
    assert not found.left[:, 3:].any()
    assert not found.right[:, 3:].any()
    assert torch.allclose(found.values[:3], values[:3], rtol=1e-6)
    assert (leading_triplets(left * values @ right.mT, n, floor=torch.tensor(0.05)).values > 0).sum() == 1


@pytest.mark.parametrize("shapes", [(9, 3, 7), (5, 8, 6), (30, 4, 4), (6, 0, 5)])
def test_factored_triplets_are_those_of_the_product(shapes):
    m, r, n = shapes
    left, right = noise(2, m, r), noise(2, r, n, seed=1)
    if r:
        left[..., 0] *= 1e5
        right[..., 0, :] *= 1e-5
    found = factored_triplets(left.mT @ left, right @ right.mT, m, n)
    u, v = left @ found.left, right.mT @ found.right
    assert torch.allclose((u * found.values.unsqueeze(-2)) @ v.mT, left @ right, atol=1e-7)
    k = min(shapes)
    assert torch.allclose(found.values[..., :k], torch.linalg.svdvals(left @ right)[..., :k], rtol=1e-7)
    assert orthonormal(u[..., :k])
    assert orthonormal(v[..., :k])


def test_zero_columns_of_factors_change_nothing():
    left, right = noise(9, 2), noise(2, 7, seed=1)
    padded = torch.nn.functional.pad(left, (0, 2)), torch.nn.functional.pad(right, (0, 0, 0, 2))
    found = factored_triplets(padded[0].mT @ padded[0], padded[1] @ padded[1].mT, 9, 7)
    assert torch.allclose(found.values, torch.nn.functional.pad(torch.linalg.svdvals(left @ right)[:2], (0, 2)))
    assert not found.left[:, 2:].any()


def test_first_triplets():
    found = leading_triplets(noise(3, 6, 6), 6)
    cut = first_triplets(found, torch.tensor([2, 0, 4]))
    assert cut.left.shape == (3, 6, 4)
    assert (cut.values > 0).sum(-1).tolist() == [2, 0, 4]
    assert not cut.right[1].any()


def test_block_diagonal():
    blocks = [noise(2, 2, 1), noise(2, 0, 3), noise(2, 1, 2)]
    assert torch.equal(block_diagonal(blocks)[1], torch.block_diag(*(block[1] for block in blocks)))


def test_safe_inverse_and_double():
    got = safe_inverse(torch.tensor([2.0, 0.0, math.inf]), torch.tensor([True, False, False]))
    assert got.tolist() == [0.5, 0.0, 0.0]
    assert double(torch.ones(1)).dtype == torch.float64
