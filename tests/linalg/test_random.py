"""The counter-based generator: published outputs, independence of blocks, and the distribution of masks."""

import math

import pytest
import torch

from hf_merge3h.linalg import random
from hf_merge3h.linalg.random import bernoulli, mask_key, mask_keys, split_mix_64, uniform

#: The first outputs of Vigna's splitmix64.c for seed 1234567, as Rosetta Code prints them too.
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def test_published_outputs():
    found = split_mix_64(torch.tensor(1234567), 0, 5).tolist()
    assert [value % 2**64 for value in found] == PUBLISHED


def test_uniform_is_the_upper_24_bits():
    assert uniform(torch.tensor(1234567), 5).tolist() == [(value >> 40) / 2**24 for value in PUBLISHED]


def test_blocks_change_nothing(monkeypatch):
    keys = mask_keys(0, ["a", "b"], ["x", "y", "z"])
    whole, mask = uniform(keys, 1000), bernoulli(keys, 0.3, (10, 100))
    for size in (64, 999, 2500):
        monkeypatch.setattr(random, "_CACHED", size)
        assert torch.equal(uniform(keys, 1000), whole)
        assert torch.equal(bernoulli(keys, 0.3, (10, 100)), mask)
        assert torch.equal(uniform(keys, 100, start=77), whole[..., 77:177])


@pytest.mark.parametrize("start", [0, 1, 2**33 + 5])
def test_the_cpu_draws_the_same_stream(start):
    keys = mask_keys(3, ["a", "b"], ["x"])
    wanted = split_mix_64(keys, start, 100).bitwise_right_shift_(40).bitwise_and_((1 << 24) - 1)
    assert torch.equal(uniform(keys, 100, start=start) * 2**24, wanted.float())


@pytest.mark.parametrize("probability", [0.0, 1e-9, 0.1, 1 / 3, 0.5, 0.999, 1.0])
def test_a_mask_is_true_where_the_uniform_number_is_less(probability):
    keys = mask_keys(5, ["a"], ["x", "y"])
    assert torch.equal(bernoulli(keys, probability, (500,)), uniform(keys, 500).double() < probability)


def test_keys_tell_seeds_roles_and_names_apart():
    keys = {mask_key(seed, role, name) for seed in (0, 1) for role in ("a", "b") for name in ("x", "y", "xy")}
    assert len(keys) == 12
    assert mask_key(0, "a", "bc") != mask_key(0, "ab", "c")
    assert mask_keys(0, ["a"], ["x"]).item() == mask_key(0, "a", "x")


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.8])
def test_the_kept_share_is_binomial(probability):
    n = 100_000
    for seed in range(5):
        kept = bernoulli(mask_keys(seed, ["a"], ["x"]), probability, (n,)).sum().item()
        assert abs(kept - n * probability) < 4.5 * math.sqrt(n * probability * (1 - probability))


def test_uniform_numbers_fill_the_interval_evenly():
    n, bins = 64_000, 64
    numbers = uniform(mask_keys(1, ["a"], ["x"]), n)
    counts = torch.histc(numbers, bins, 0, 1)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    chi_squared = ((counts - n / bins) ** 2 / (n / bins)).sum().item()
    assert abs(chi_squared - (bins - 1)) < 4.5 * math.sqrt(2 * (bins - 1))


def test_masks_of_two_experts_are_independent():
    n = 100_000
    both = bernoulli(mask_keys(0, ["a", "b"], ["x"]), 0.5, (n,))[:, 0].all(0).sum().item()
    assert abs(both - n / 4) < 4.5 * math.sqrt(n * 3 / 16)
