"""Coefficients from Gram matrices, against the geometry they stand for."""

import pytest
import torch

from hf_merge3h import LowRank
from hf_merge3h.linalg.sphere import (
    cosines,
    gram,
    karcher_coefficients,
    low_rank_gram,
    low_rank_row_gram,
    mean_cosine,
    norms,
    projected_mean_coefficients,
    slerp_coefficients,
)
from hf_merge3h.linalg.weighted import combine


def experts(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_gram_of_factors_is_that_of_the_matrices():
    factors = [LowRank(experts(2, 5, 3, seed=t), experts(2, 3, 4, seed=9 + t)) for t in range(3)]
    dense = torch.stack([each.dense() for each in factors])
    torch.testing.assert_close(low_rank_gram(factors), gram(dense, (1, 2))[..., 0, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(low_rank_row_gram(factors), gram(dense, (2,))[..., 0], rtol=1e-5, atol=1e-5)


def test_a_zero_vector_is_at_right_angles_to_all():
    vectors = torch.stack([torch.ones(1, 4), torch.zeros(1, 4)])
    assert cosines(gram(vectors, (1,)))[0, 1].item() == 0
    assert mean_cosine(gram(vectors, (1,))).item() == 0


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_slerp_between_unit_vectors_has_unit_length_and_the_angle(t):
    vectors = torch.nn.functional.normalize(experts(2, 1, 6).double(), dim=-1)
    products = gram(vectors, (1,))
    point = combine(vectors, slerp_coefficients(products, t, parallel=lambda cosine: cosine.abs() > 1))[0]
    angle = cosines(products)[0, 1].acos().item()
    assert point.norm().item() == pytest.approx(1)
    assert torch.dot(point, vectors[0, 0]).item() == pytest.approx(torch.tensor(t * angle).cos().item(), abs=1e-6)


def test_karcher_mean_is_where_the_weighted_tangents_cancel():
    vectors = experts(4, 1, 7).double() + 1
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    coefficients = karcher_coefficients(gram(vectors, (1,)), weights, max_iter=100, tol=1e-12)
    mean = combine(vectors, coefficients)[0]
    u = mean / mean.norm()
    step = torch.zeros(7, dtype=torch.float64)
    for vector, weight in zip(vectors[:, 0], weights.tolist(), strict=True):
        unit = vector / vector.norm()
        angle = torch.dot(unit, u).acos()
        step += weight * angle / angle.sin() * (unit - torch.dot(unit, u) * u)
    assert step.norm().item() < 1e-6
    lengths = norms(gram(vectors, (1,))).squeeze()
    assert mean.norm().item() == pytest.approx((weights * lengths).sum().item())


def test_karcher_of_two_is_slerp_half_way_for_equal_lengths():
    vectors = torch.nn.functional.normalize(experts(2, 1, 6).double(), dim=-1)
    products = gram(vectors, (1,))
    half = slerp_coefficients(products, 0.5, parallel=lambda cosine: cosine.abs() > 1)
    torch.testing.assert_close(karcher_coefficients(products, torch.ones(2), max_iter=20, tol=1e-12), half)


def test_opposite_directions_are_averaged_linearly():
    vectors = torch.tensor([[[1.0, 0.0]], [[-3.0, 0.0]]])
    products, weights = gram(vectors, (1,)), torch.tensor([0.5, 0.5])
    assert projected_mean_coefficients(products, weights, 1e-8).flatten().tolist() == [0.5, 0.5]
    assert karcher_coefficients(products, weights, max_iter=10, tol=1e-5).flatten().tolist() == [0.5, 0.5]


def test_karcher_gives_the_weight_of_zero_tensors_to_the_others():
    vectors = torch.stack([torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)])
    coefficients = karcher_coefficients(gram(vectors, (1,)), torch.tensor([0.5, 0.5]), max_iter=10, tol=1e-5)
    torch.testing.assert_close(combine(vectors, coefficients), vectors[0])
