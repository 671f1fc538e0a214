"""Single facts about single methods that no law says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_merge3h import RequestError, get_method, preference_grid
from hf_merge3h.apply import gather, merge_stack
from hf_merge3h.methods.ties import ModelThresholds


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- rewarded soups' front --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "steps", "count"), [(1, 4, 1), (2, 4, 5), (3, 4, 15), (4, 3, 20)])
def test_preference_grid_covers_the_simplex_once(n, steps, count):
    points = list(preference_grid(n, steps))
    assert len(set(points)) == len(points) == count
    for point in points:
        assert get_method("rewarded_soup").check({}, point) is None
        assert all(weight * steps == round(weight * steps) for weight in point)


def test_preference_grid_refuses_nothing_to_step():
    with pytest.raises(RequestError, match="steps=0"):
        list(preference_grid(2, 0))


# -- model stock ------------------------------------------------------------------------------------------------------


def test_model_stock_keeps_the_base_where_experts_cancel():
    stock = get_method("model_stock")
    assert not stock(torch.stack([torch.ones(4), -torch.ones(4)])).any()
    third = torch.tensor([[1.0, 0.0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2]])  # every cosine is -1/2
    assert stock(third).abs().max() < 1e-5


def test_model_stock_by_filter_treats_each_row_alone():
    stock, deltas = get_method("model_stock"), randn(3, 5, 4, 3)
    rows = torch.stack([stock(deltas[:, i]) for i in range(5)])
    torch.testing.assert_close(stock(deltas, filter_wise=True), rows)


# -- ties over the whole model ----------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.sampled_from([0.05, 0.2, 0.5, 1.0]), st.booleans())
def test_whole_model_thresholds_are_the_kth_largest_of_all(seed, density, rounded):
    groups = [randn(2, 3, 4, 5, seed=seed), randn(2, 1, 7, seed=seed + 1) * 10]
    if rounded:
        groups = [group.bfloat16().float() for group in groups]
    accumulator = ModelThresholds((density, 0.5))
    for number in range(accumulator.passes):
        for group in groups:
            accumulator.observe(number, ("w",) * group.shape[1], group, True)
    whole = torch.cat([group.reshape(2, -1) for group in groups], 1).abs().sort(descending=True).values
    n = whole.shape[1]
    wanted = [whole[t, max(1, int(share * n)) - 1].item() for t, share in enumerate((density, 0.5))]
    assert list(accumulator.result()) == wanted


def test_ties_over_the_model_trims_small_tensors_away():
    ties = get_method("ties")
    groups = [(("small",), randn(2, 1, 50) * 1e-3, True), (("large",), randn(2, 1, 50, seed=1), True)]
    parameters = ties.bind({"density": 0.5, "trim_scope": "model"}, 2)
    statistics = gather(ties, parameters, 2, groups)
    small, large = (
        merge_stack(ties, group, torch.ones(2), parameters, {"statistics": statistics}, spectral=True)
        for _, group, _ in groups
    )
    assert not small.any()
    assert large.all()


def test_ties_within_tensors_needs_no_first_pass():
    ties = get_method("ties")
    assert ties.prepare(ties.bind({}), 3) is None
    assert ModelThresholds((0.5,)).result() is None


@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "breadcrumbs_ties"])
def test_rescaling_restores_what_trimming_took_expert_by_expert(name):
    method, delta = get_method(name), randn(1, 20, 30)
    merged = method(delta, density=0.3, rescale="l1")
    torch.testing.assert_close(merged.abs().sum(), delta.abs().sum())
    assert int(merged.count_nonzero()) == int(method(delta, density=0.3).count_nonzero())
    assert not method(torch.zeros(2, 4, 5), density=0.3, rescale="l1").any()


# -- others -----------------------------------------------------------------------------------------------------------


def test_magmax_takes_the_positive_of_two_equal_changes():
    assert get_method("magmax")(torch.tensor([[-2.0], [2.0]])).item() == 2
    assert get_method("magmax")(torch.tensor([[2.0], [-2.0]])).item() == 2


def test_sce_selects_what_varies_and_nothing_where_all_agree():
    sce, equal = get_method("sce"), torch.ones(3, 10)
    assert torch.equal(sce(equal), equal[0])
    assert not sce(equal, select_topk=0.5).any()
    mixed = torch.tensor([[1.0, 1.0, 1.0, 4.0], [1.0, 1.5, 1.1, 0.0]])
    assert sce(mixed, select_topk=0.4).nonzero().flatten().tolist() == [3]


def test_sce_weighs_small_task_vectors_equally_where_asked():
    deltas = torch.tensor([[1e-4, 2e-4], [3e-4, 4e-4]])
    torch.testing.assert_close(get_method("sce")(deltas, equal_below=1e-6), deltas.mean(0))
    assert get_method("sce")(deltas)[0] > deltas.mean(0)[0]


def test_consensus_with_one_expert_enough_is_the_sum_where_somebody_cares():
    deltas = randn(3, 6, 5)
    merged = get_method("consensus_ta")(deltas, mask_lambda=0.0, min_experts=3)
    torch.testing.assert_close(merged, get_method("task_arithmetic")(deltas))


def test_ram_drops_what_no_expert_changed():
    assert get_method("ram")(torch.tensor([[1e-6, 0.5], [-1e-6, 0.0]])).tolist() == [0.0, 0.5]


def test_negative_weights_unlearn():
    deltas = randn(2, 4, 4)
    torch.testing.assert_close(get_method("task_arithmetic")(deltas, [1, -1]), deltas[0] - deltas[1])


def test_multislerp_is_the_closed_form_of_its_tangent_average():
    deltas = randn(3, 20)
    units = torch.nn.functional.normalize(deltas, dim=-1)
    mean = torch.nn.functional.normalize(units.mean(0), dim=0)
    torch.testing.assert_close(get_method("multislerp")(deltas), mean * deltas.norm(dim=-1).mean())


def test_sce_selects_nothing_where_the_experts_agree():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(1, 400, generator=generator).repeat(3, 1)
    vectors[2, :8] *= -1.5  # the only entries on which they differ: a quarter of them is two
    merged = get_method("sce")(vectors, select_topk=0.25)
    assert merged.count_nonzero() == 2
