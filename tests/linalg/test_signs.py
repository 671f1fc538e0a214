"""Election and averaging, on cases worked out by hand."""

import torch

from hf_merge3h import get_method
from hf_merge3h.linalg import weighted
from hf_merge3h.linalg.signs import agreeing_sum, elect, weigh
from hf_merge3h.linalg.weighted import shares, weighted_sum


def test_a_draw_elects_plus():
    terms = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert elect(terms, "sum").tolist() == [1.0, 1.0]
    assert elect(terms, "count").tolist() == [1.0, 1.0]


def test_sum_and_count_can_differ():
    terms = torch.tensor([[5.0], [-1.0], [-1.0]])
    assert elect(terms, "sum").item() == 1.0
    assert elect(terms, "count").item() == -1.0


def test_zero_agrees_with_neither_sign():
    terms, weights = torch.tensor([[0.0, 0.0], [3.0, -3.0]]), torch.tensor([1.0, 2.0])
    assert agreeing_sum(terms, weights, elect(terms, "sum"), normalize=True).tolist() == [1.5, -1.5]


def test_the_divisor_is_the_weight_of_those_who_agree():
    weights = torch.tensor([1.0, 3.0, 5.0])
    terms = weigh(torch.tensor([[[4.0]], [[8.0]], [[-1.0]]]), weights)
    positive = elect(terms, "sum")
    assert agreeing_sum(terms.clone(), weights, positive, normalize=True).item() == (4 + 24) / 4
    assert agreeing_sum(terms, weights, positive, normalize=False).item() == 28


def test_weights_that_cancel_divide_nothing():
    weights = torch.tensor([1.0, -1.0])
    terms = weigh(torch.tensor([[[2.0]], [[-3.0]]]), weights)
    assert agreeing_sum(terms, weights, elect(terms, "sum"), normalize=True).item() == 5.0


def test_weights_may_differ_by_tensor():
    weights = torch.tensor([[1.0, 0.5], [1.0, 2.0]])
    vectors = torch.ones(2, 2, 3)
    assert weigh(vectors, weights)[:, :, 0].tolist() == weights.tolist()


def test_sums_over_tasks_are_the_same_in_every_layout():
    vectors = torch.randn(3, 7, 11, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.3, 0.5, 0.7])
    whole = weighted_sum(vectors, weights)
    turned = weighted_sum(vectors.transpose(1, 2).contiguous(), weights).T
    assert torch.equal(whole, turned)
    torch.testing.assert_close(shares(weights).sum(), torch.tensor(1.0))


def test_blocks_change_no_bit(monkeypatch):
    vectors = torch.randn(3, 2, 30, 1000, generator=torch.Generator().manual_seed(0))
    wanted = get_method("ties").function(vectors, torch.tensor([1.0, 0.5, 0.25]))
    monkeypatch.setattr(weighted, "_BLOCK", 1 << 10)
    assert torch.equal(get_method("ties").function(vectors, torch.tensor([1.0, 0.5, 0.25])), wanted)
