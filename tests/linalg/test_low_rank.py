"""`LowRank` against the matrices it stands for."""

import pytest
import torch

from hf_merge3h import LowRank


def low_rank(*batch, m=5, n=4, r=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(*batch, m, r, generator=generator), torch.randn(*batch, r, n, generator=generator))


def test_shape_rank_and_product():
    delta = low_rank(3)
    assert delta.shape == (3, 5, 4)
    assert (delta.rank, delta.ndim, delta.dtype) == (2, 3, torch.float32)
    assert torch.equal(delta.dense(), delta.left @ delta.right)
    assert torch.equal(delta.mT.dense(), delta.right.mT @ delta.left.mT)


def test_sum_of_several_is_exact():
    terms = [low_rank(r=r, seed=r) for r in (0, 1, 3)]
    total = LowRank.cat(terms)
    assert total.rank == 4
    torch.testing.assert_close(total.dense(), sum(term.dense() for term in terms))


def test_stack_pads_ranks_with_zeros():
    terms = [low_rank(r=r, seed=r) for r in (1, 3)]
    stacked = LowRank.stack(terms)
    assert stacked.rank == 3
    for i, term in enumerate(terms):
        torch.testing.assert_close(stacked[i].dense(), term.dense())


def test_factors_scale_the_whole_or_each_of_the_batch():
    delta = low_rank(3)
    torch.testing.assert_close((2 * delta).dense(), 2 * delta.dense())
    each = torch.tensor([1.0, -2.0, 0.0])
    torch.testing.assert_close((delta * each).dense(), delta.dense() * each[:, None, None])


def test_inner_products_and_norms_never_form_the_matrix():
    left, right = low_rank(2, seed=1), low_rank(2, r=3, seed=2)
    wanted = (left.dense().double() * right.dense().double()).sum((-2, -1))
    torch.testing.assert_close(left.inner(right), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(left.norm(), left.dense().double().norm(dim=(-2, -1)), rtol=1e-5, atol=1e-5)


def test_rows_are_rows_of_the_product():
    delta = low_rank()
    torch.testing.assert_close(delta.rows(torch.tensor([3, 0])), delta.dense()[[3, 0]])


def test_zero_has_rank_0():
    zero = LowRank.zeros((2, 5, 4))
    assert zero.rank == 0
    assert not zero.dense().any()
    assert zero.shape == (2, 5, 4)


def test_dtype_and_device_conversion():
    assert low_rank().to(dtype=torch.float64).dense().dtype == torch.float64


@pytest.mark.parametrize(
    ("left", "right"), [((5, 2), (3, 4)), ((2, 5, 2), (3, 2, 4)), ((5, 2), (1, 2, 4))], ids=["rank", "batch", "ndim"]
)
def test_factors_that_do_not_fit_are_refused(left, right):
    with pytest.raises(Exception, match=r"do not fit|[Tt]ype"):
        LowRank(torch.zeros(left), torch.zeros(right))
