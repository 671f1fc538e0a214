"""The spectral methods against their oracles, dense and in factors, and what is particular to each."""

import math
from itertools import cycle

import pytest
import torch

from hf_merge3h import LowRank, get_method
from hf_merge3h.apply import gather, merge_stack
from hf_merge3h.linalg.low_rank import norms
from hf_merge3h.linalg.random import mask_keys
from hf_merge3h.methods.r_tsvm import select
from hf_merge3h.methods.reweighting import DeltaScales, ranks_by_share, sparsity

from ..oracles_spectral import ORACLES

SPECTRAL = sorted(ORACLES)
SHAPES = [(9, 9), (6, 14), (14, 6), (30, 20)]
VALUES = {
    "ridge": [0.3, 1e-3],
    "scale": [0.7, -1.5],
    "granularity": ["channel", "entry", "layer"],
    "outliers": ["boost", "none"],
    "kappa": [1.0, math.inf],
    "preserve_norm": [False],
    "gamma": [0.0, 3.0],
    "epsilon": [0.5],
    "rank_rule": ["share", "noise"],
    "common": [0.5, 0.0, 1.0],
    "density": [0.5, 1.0],
    "election": ["count"],
    "normalize": [False],
    "rescale": ["none"],
}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def factors(shape, ranks, seed=0, dtype=torch.float32):
    """LoRA deltas: float64 numbers that float32 holds exactly."""
    m, n = shape
    generator = torch.Generator().manual_seed(seed)
    draws = [(torch.randn(m, r, generator=generator), torch.randn(r, n, generator=generator)) for r in ranks]
    return [LowRank(left.to(dtype), right.to(dtype)) for left, right in draws]


def merge(name, vectors, weights=None, **parameters):
    result = get_method(name)(vectors, weights, **parameters)
    return result.dense() if isinstance(result, LowRank) else result


def oracle(name, vectors, weights=None, **parameters):
    low_rank = not isinstance(vectors, torch.Tensor)
    stack = torch.stack([each.to(dtype=torch.float64).dense() for each in vectors]) if low_rank else vectors.double()
    method = get_method(name)
    keys = mask_keys(0, [f"expert_{t + 1}" for t in range(len(vectors))], ["tensor"])[:, 0]
    bound = method.bind(parameters, len(vectors))
    if name == "r_tsvm":
        bound["low_rank"] = low_rank
    return ORACLES[name](stack, list(method.bind_weights(weights, len(vectors))), keys=keys, **bound)


def distance(got, wanted):
    return (
        torch.linalg.norm(got.double() - wanted.double()) / torch.linalg.norm(wanted.double()).clamp_min(1e-30)
    ).item()


def variants(name):
    yield {}
    for parameter in get_method(name).parameters:
        yield from ({parameter.name: value} for value in VALUES.get(parameter.name, []))


# -- oracles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPECTRAL)
def test_dense_equals_the_oracle(name, shape):
    weightings = cycle([None, [0.7, -1.3, 0.4]])
    for seed, (parameters, weights) in enumerate(zip(variants(name), weightings, strict=False)):
        vectors = noise(3, *shape, seed=seed)
        assert (
            distance(merge(name, vectors, weights, **parameters), oracle(name, vectors, weights, **parameters)) < 1e-5
        )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPECTRAL)
def test_factors_equal_the_oracle(name, shape):
    weightings = cycle([[0.7, -1.3, 0.4], None])
    for seed, (parameters, weights) in enumerate(zip(variants(name), weightings, strict=False)):
        vectors = factors(shape, [2, 1, 3], seed=seed)
        assert (
            distance(merge(name, vectors, weights, **parameters), oracle(name, vectors, weights, **parameters)) < 1e-5
        )


@pytest.mark.parametrize("name", SPECTRAL)
def test_a_factor_may_be_wider_than_the_matrix(name):
    vectors = factors((12, 5), [9, 2, 14])
    assert distance(merge(name, vectors), oracle(name, vectors)) < 1e-5


@pytest.mark.parametrize("name", SPECTRAL)
def test_sparse_and_zero_deltas_equal_the_oracle(name):
    vectors = noise(3, 12, 10)
    vectors[0, :, 3:] = 0
    vectors[1] = 0
    assert distance(merge(name, vectors), oracle(name, vectors)) < 1e-5
    assert not merge(name, torch.zeros(3, 12, 10)).any()


@pytest.mark.parametrize("name", SPECTRAL)
def test_experts_of_rank_0(name):
    some = factors((10, 8), [2, 0, 3])
    assert distance(merge(name, some), oracle(name, some)) < 1e-5
    none = get_method(name)(factors((10, 8), [0, 0, 0]))
    assert none.shape == (10, 8)
    assert not none.dense().any()


@pytest.mark.parametrize("name", ["tsv_merge"])
def test_the_published_procedure(name):
    vectors = noise(3, 16, 12)
    assert distance(merge(name, vectors, reference=True), oracle(name, vectors, reference=True)) < 1e-5
    assert distance(merge(name, vectors, reference=True), merge(name, vectors)) < 1e-5
    lora = factors((16, 12), [2, 2, 2])
    assert distance(merge(name, lora, reference=True), merge(name, lora)) > 0.1  # what the truncation is for


def test_a_ridge_keeps_wudi_where_the_experts_are():
    """Spectra that fall, as those of whole fine-tunes do: the exact solution is divided by next to nothing."""
    generator = torch.Generator().manual_seed(0)
    falling = torch.logspace(0, -6, 24)
    axes = [torch.linalg.qr(torch.randn(24, 24, generator=generator))[0] for _ in range(6)]
    vectors = torch.stack([axes[2 * k] * falling @ axes[2 * k + 1].mT for k in range(3)])
    total = vectors.sum(0)
    sizes = [torch.linalg.norm(merge("wudi", vectors, ridge=ridge)) for ridge in (0.0, 0.1)]
    assert sizes[0] > 2 * torch.linalg.norm(total)
    assert sizes[1] < 1.3 * torch.linalg.norm(total)
    assert distance(merge("wudi", vectors, ridge=1e6), total) < 1e-5


# -- rank -------------------------------------------------------------------------------------------------------------


RETURNS_THE_EXPERT = {"tsv_merge": {}, "r_tsvm": {"outliers": "none", "gamma": 0.0}, "knots_ties": {"density": 1},
                      "knots_dare": {"density": 1}, "wudi": {}}  # fmt: skip


@pytest.mark.parametrize("name", RETURNS_THE_EXPERT)
def test_one_expert_or_equal_experts_give_that_expert(name):
    options = RETURNS_THE_EXPERT[name]
    for shape in SHAPES:
        single = noise(1, *shape)
        assert distance(merge(name, single, **options), single[0]) < 1e-5
        expert = factors(shape, [2])[0]
        assert distance(merge(name, [expert], **options), expert.dense()) < 1e-5
        weight = 1 / 3 if name == "knots_dare" else 1.0  # only that one is a sum of equal experts
        assert distance(merge(name, [expert] * 3, [weight] * 3, **options), expert.dense()) < 1e-5
        assert distance(merge(name, torch.stack([expert.dense()] * 3), [weight] * 3, **options), expert.dense()) < 1e-5


@pytest.mark.parametrize("name", SPECTRAL)
def test_float32_is_float64_on_lora(name):
    single, double = (factors((40, 30), [4, 4, 4], dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert distance(merge(name, single), merge(name, double)) < 1e-5


@pytest.mark.parametrize("name", SPECTRAL)
def test_shared_factors(name):
    """Experts that share A (as some adapters do): the stack of right vectors has a third of the rank it could have."""
    first, *others = factors((20, 16), [3, 3, 3])
    shared = [first, *(LowRank(other.left, first.right) for other in others)]
    assert distance(merge(name, shared), oracle(name, shared)) < 1e-5


@pytest.mark.parametrize("name", ["tsv_merge", "r_tsvm", "iso_c", "iso_cts", "wudi"])
def test_tiny_changes_of_rank_deficient_experts_change_little(name):
    experts = [expert.dense().double() for expert in factors((20, 16), [3, 3], seed=1)]
    stack = torch.stack([*experts, experts[0]])
    nudged = stack + 1e-13 * noise(3, 20, 16, seed=5).double()
    assert distance(merge(name, nudged), merge(name, stack)) < 1e-6


@pytest.mark.parametrize("name", SPECTRAL)
def test_a_factorisation_may_be_badly_scaled(name):
    experts = factors((20, 16), [3, 3, 3])
    turn = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]]) * torch.tensor([1e4, 1.0, 1e-4])
    other = [
        LowRank((each.left.double() @ turn.double()), torch.linalg.solve(turn.double(), each.right.double()))
        for each in experts
    ]
    assert distance(merge(name, other), merge(name, experts)) < 1e-5


@pytest.mark.parametrize("name", ["tsv_merge", "r_tsvm", "iso_c", "iso_cts"])
def test_unused_columns_are_exactly_zero(name):
    matrices = [noise(3, 12, 10, seed=1), torch.stack([each.dense() for each in factors((12, 10), [1, 1, 1])])]
    stack = torch.stack(matrices, 1)
    options = {"outliers": "none"} if name == "r_tsvm" else {}
    result = get_method(name).function(stack, torch.ones(3), **options)
    used = (result.left != 0).any(-2).sum(-1)
    assert used[1] <= 3 < used[0]
    assert torch.equal(used, (result.right != 0).any(-1).sum(-1))


@pytest.mark.parametrize("name", ["tsv_merge", "r_tsvm", "iso_c", "iso_cts"])
def test_denoise_drops_what_storage_makes(name):
    exact = torch.stack([each.dense() for each in factors((24, 20), [2, 2, 2])]).unsqueeze(1)
    stored = exact + 1e-3 * noise(3, 1, 24, 20, seed=3)
    options = {"outliers": "none", "gamma": 0.0} if name == "r_tsvm" else {}
    clean = get_method(name).function(exact, torch.ones(3), **options).dense()
    kept = get_method(name).function(stored, torch.ones(3), denoise=True, noise=torch.tensor([0.05]), **options)
    assert (kept.left != 0).any(-2).sum() <= 6
    assert distance(kept.dense(), clean) < 0.01
    ignored = get_method(name).function(stored, torch.ones(3), noise=torch.tensor([0.05]), **options)
    assert (ignored.left != 0).any(-2).sum() > 6


# -- R-TSVM -----------------------------------------------------------------------------------------------------------

PLAIN = {"kappa": math.inf, "gamma": 0.0}


@pytest.mark.parametrize("rank_rule", ["task", "share", "noise"])
@pytest.mark.parametrize("granularity", ["auto", "entry", "channel", "layer"])
def test_r_tsvm_without_its_parts_is_tsv_merge_bit_for_bit(granularity, rank_rule):
    options = {**PLAIN, "granularity": granularity, "rank_rule": rank_rule}
    vectors = noise(3, 20, 15)
    assert torch.equal(merge("r_tsvm", vectors, **options), merge("tsv_merge", vectors))
    if granularity != "entry":
        lora = factors((20, 15), [3, 2, 4])
        assert torch.equal(merge("r_tsvm", lora, **options), merge("tsv_merge", lora))


def test_a_low_rank_delta_and_its_matrix_agree_by_channel():
    lora = factors((300, 40), [3, 2, 4])
    lora[0].left[7] *= 30
    dense = torch.stack([each.dense() for each in lora])
    for rule in ("task", "share", "noise"):
        options = {"granularity": "channel", "rank_rule": rule}
        assert distance(merge("r_tsvm", lora, **options), merge("r_tsvm", dense, **options)) < 1e-5
    assert torch.equal(merge("r_tsvm", lora), merge("r_tsvm", lora, granularity="channel"))
    assert torch.equal(merge("r_tsvm", dense), merge("r_tsvm", dense, granularity="entry"))


@pytest.mark.parametrize(
    ("granularity", "place"), [("entry", (4, 5)), ("channel", (4,)), ("channel", (slice(None), 5))]
)
def test_a_planted_outlier_is_damped_and_boosted(granularity, place):
    vectors = noise(1, 60, 50)
    vectors[0][place] += 40
    share = {
        rule: merge("r_tsvm", vectors, outliers=rule, granularity=granularity, gamma=0)[place].norm().item()
        / merge("r_tsvm", vectors, outliers=rule, granularity=granularity, gamma=0).norm().item()
        for rule in ("damp", "none", "boost")
    }
    assert 2 * share["damp"] < share["none"] < share["boost"]


@pytest.mark.parametrize("granularity", ["entry", "channel"])
def test_the_norm_is_kept(granularity):
    vectors = noise(1, 40, 30) ** 3
    options = {"granularity": granularity, "gamma": 0, "kappa": 1.0}
    assert math.isclose(merge("r_tsvm", vectors, **options).norm(), vectors.norm(), rel_tol=1e-5)
    assert merge("r_tsvm", vectors, preserve_norm=False, **options).norm() < 0.95 * vectors.norm()


@pytest.mark.parametrize("outliers", ["damp", "boost"])
def test_layers_are_weighed_against_the_same_module_in_other_layers(outliers):
    names = tuple(f"model.layers.{i}.q_proj.weight" for i in range(7))
    stack = noise(2, 7, 10, 8) * torch.tensor([1.0, 1.1, 0.9, 1.05, 0.95, 20.0, 1.0])[:, None, None]
    method = get_method("r_tsvm")
    bound = method.bind({"granularity": "layer", "gamma": 0, "outliers": outliers}, 2)
    statistics = gather(method, bound, 2, [(names, stack, True)])
    factors_ = torch.tensor([statistics.layers[name] for name in names], dtype=torch.float64)
    before, after = norms(stack[0]), norms(stack[0]) * factors_[:, 0]
    assert math.isclose(before.norm(), after.norm(), rel_tol=1e-9)
    ratio = factors_[5, 0] / factors_[0, 0]
    assert ratio < 0.2 if outliers == "damp" else 1 < ratio <= 3.0001
    supplied = {"statistics": statistics, "names": names, "noise": None}
    merged = merge_stack(method, stack, torch.ones(2), bound, supplied, spectral=True).dense()
    plain = get_method("tsv_merge").function(stack * factors_.mT[..., None, None].float(), torch.ones(2)).dense()
    assert distance(merged, plain) < 1e-5


@pytest.mark.parametrize("shape", [(40, 30), (700, 24), (1500, 60)])
def test_sparsity_is_counted_equally_in_both_forms(shape):
    lora = [LowRank(each.left[None], each.right[None]) for each in factors(shape, [2, 3, 4])]
    dense = torch.stack([each.dense() for each in lora])
    rms = torch.stack([norms(each) for each in lora]) / math.sqrt(math.prod(shape))
    low, full = sparsity(tuple(lora), 0.3, rms), sparsity(dense, 0.3, rms)
    assert (low - full).abs().max() < 1e-4
    truth = torch.stack([(each.dense().abs() <= 0.3 * scale).double().mean((1, 2)) for each, scale in zip(lora, rms)])
    assert (full - truth).abs().max() < 0.02  # four standard errors


def test_sparsity_takes_more_rows_where_rows_differ():
    uneven = noise(1, 5000, 8)
    uneven[:, ::2] *= 1e-3
    assert abs(sparsity(uneven[None], 0.1, torch.ones(1, 1)).item() - (uneven.abs() <= 0.1).double().mean()) < 0.015


def test_rms_is_over_the_matrices_that_a_task_changes():
    scales = DeltaScales(2, 3.0, "damp", True)
    stack = noise(2, 2, 6, 5)
    stack[1, 0] = 0
    scales.observe(0, ("a", "b"), stack, True)
    scales.observe(0, ("bias",), noise(2, 1, 5), False)
    rms = scales.result().rms
    assert math.isclose(rms[0], stack[0].square().mean().sqrt(), rel_tol=1e-5)
    assert math.isclose(rms[1], stack[1, 1].square().mean().sqrt(), rel_tol=1e-5)
    assert DeltaScales(1, 3.0, "damp", True).result().rms == (0.0,)


def test_ranks_by_share():
    ranks = torch.tensor([[5, 5, 0, 4], [5, 5, 5, 4], [5, 5, 5, 4]])
    sparse = torch.tensor([[0.0, 0.9, 0.0, 1.0], [0.5, 0.9, 0.5, 1.0], [0.5, 0.9, 0.0, 1.0]]).double()
    limits = torch.tensor([[15, 15, 0, 4], [15, 15, 15, 4], [15, 15, 6, 4]])
    got = ranks_by_share(ranks, sparse, 1.0, limits)
    assert got.T.tolist() == [[7, 4, 4], [5, 5, 5], [0, 4, 6], [4, 4, 4]]
    assert torch.equal(got.sum(0), ranks.sum(0))


def test_a_selection_can_be_read():
    method = get_method("r_tsvm")
    vectors = noise(3, 2, 30, 24)
    vectors[0, :, :, 12:] = 0
    bound = {k: v for k, v in method.bind({}, 3).items() if k not in ("scale", "spectral_embeddings")}
    _, chosen = select(vectors, torch.ones(3), noise=None, statistics=None, names=None, **bound)
    assert chosen.ranks.shape == (3, 2)
    assert (chosen.sparsity[0] > 0.5).all()
    assert (chosen.ranks[0] < chosen.ranks[1]).all()


@pytest.mark.parametrize("options", [{"outliers": "none"}, {"granularity": "layer"}])
def test_rotation_commutes_where_nothing_looks_at_the_basis(options):
    vectors = noise(3, 12, 10)
    left, right = torch.linalg.qr(noise(12, 12, seed=1)).Q, torch.linalg.qr(noise(10, 10, seed=2)).Q
    turned = merge("r_tsvm", left @ vectors @ right, gamma=0, **options)
    assert distance(turned, left @ merge("r_tsvm", vectors, gamma=0, **options) @ right) < 1e-5


def test_knots_commutes_with_changes_of_the_left_basis():
    vectors = noise(3, 12, 10)
    left = torch.linalg.qr(noise(12, 12, seed=1)).Q
    for name in ("knots_ties", "knots_dare"):
        assert distance(merge(name, left @ vectors), left @ merge(name, vectors)) < 1e-4


@pytest.mark.parametrize("rate", [2.0, -0.5])
def test_homogeneity_of_r_tsvm_in_both_forms(rate):
    lora = factors((300, 40), [3, 2, 4])
    assert distance(merge("r_tsvm", [each * rate for each in lora]), rate * merge("r_tsvm", lora)) < 1e-5
