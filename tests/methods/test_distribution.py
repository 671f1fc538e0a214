"""What the random methods do on average: kept shares, means and variances, bounded by the statistics of the draw."""

import math

import pytest
import torch

from hf_merge3h import get_method

N = 40_000
SIGMAS = 4.5


def constant(value=1.0, rows=1):
    return torch.full((1, rows, N // rows), value)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_dare_keeps_its_share_and_its_mean(density, seed):
    merged = get_method("dare_linear")(constant(), density=density, seed=seed)
    kept = (merged != 0).double().mean().item()
    assert abs(kept - density) < SIGMAS * math.sqrt(density * (1 - density) / N)
    variance = (1 - density) / density
    assert abs(merged.double().mean().item() - 1) < SIGMAS * math.sqrt(variance / N)
    assert merged.double().var().item() == pytest.approx(variance, rel=0.1)
    torch.testing.assert_close(merged[merged != 0].unique(), torch.tensor([1 / density]))


@pytest.mark.parametrize("density", [0.3, 0.5])
def test_della_keeps_its_share_and_every_entry_s_mean(density):
    delta = torch.randn(1, 40, N // 40, generator=torch.Generator().manual_seed(0))
    trials = torch.stack([get_method("della_linear")(delta, density=density, seed=seed) for seed in range(30)])
    kept = (trials != 0).double().mean().item()
    assert abs(kept - density) < SIGMAS * math.sqrt(density * (1 - density) / trials.numel())
    least = density - 0.15
    error = (trials - delta).double().sum().item()  # of independent draws, each of variance x^2 (1 - p) / p
    assert abs(error) < SIGMAS * math.sqrt(30 * delta.square().sum().item() * (1 - least) / least)


def test_della_keeps_large_entries_more_often():
    delta = torch.randn(1, 40, N // 40, generator=torch.Generator().manual_seed(0))
    merged = get_method("della_linear")(delta, density=0.5, epsilon=0.4, rescale="none")
    large = delta[0].abs() > delta[0].abs().median()
    low, high = ((merged != 0)[mask].double().mean().item() for mask in (~large, large))
    assert low == pytest.approx(0.3, abs=SIGMAS * math.sqrt(0.21 / (N / 2)))
    assert high == pytest.approx(0.7, abs=SIGMAS * math.sqrt(0.21 / (N / 2)))


@pytest.mark.parametrize("name", ["dare_linear", "della_linear"])
def test_rescaling_by_l1_restores_the_sum_of_magnitudes(name):
    delta = torch.randn(1, 40, N // 40, generator=torch.Generator().manual_seed(0))
    merged = get_method(name)(delta, rescale="l1")
    torch.testing.assert_close(merged.abs().sum(), delta.abs().sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della_linear", "della"])
@pytest.mark.parametrize("shape", [(), (9,), (9, 1), (1, 9), (3, 2, 2, 2)])
def test_density_1_drops_nothing(name, shape):
    delta = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(get_method(name)(delta, density=1), delta[0])


def test_density_may_differ_by_expert():
    delta = torch.stack([torch.ones(N), torch.zeros(N)])
    kept = get_method("dare_linear")(delta, density=[0.2, 1.0]) != 0
    assert kept.double().mean().item() == pytest.approx(0.2, abs=SIGMAS * math.sqrt(0.16 / N))


def test_seeds_give_other_masks_and_the_same_seed_the_same():
    dare = get_method("dare_linear")
    assert torch.equal(dare(constant(), seed=3), dare(constant(), seed=3))
    assert not torch.equal(dare(constant(), seed=3), dare(constant(), seed=4))


def test_experts_have_masks_of_their_own():
    both = get_method("dare_linear")(constant().expand(2, -1, -1), rescale="none")
    assert (both == 2).double().mean().item() == pytest.approx(0.25, abs=SIGMAS * math.sqrt(0.1875 / N))
