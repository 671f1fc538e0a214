import copy

import pytest
import torch
from torch import nn

from hf_merge3h.errors import Problems, RequestError
from hf_merge3h.models.weights import module as module_file
from hf_merge3h.models.weights.compare import compare
from hf_merge3h.models.weights.module import LiveModule, live_expert
from tests.models import tiny

ALL = sorted(tiny.ARCHITECTURES)


def _state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _same(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ALL)
def test_commit_makes_one_model_the_other(name):
    model, other = tiny.make(name), tiny.make(name, seed=1)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    next(iter(parameters.values())).requires_grad_(False)
    flags = {key: parameter.requires_grad for key, parameter in parameters.items()}
    source = LiveModule(other)
    merged = {key: source.load(key).clone() for key in source.specs()}
    LiveModule(model).commit(merged)
    assert merged == {}
    assert _same(_state(model), _state(other))
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[key] is parameters[key] and after[key].requires_grad == flags[key] for key in parameters)
    assert all(parameter.is_leaf for parameter in after.values())


def test_a_part_of_the_tensors_and_of_a_fused_one():
    model = tiny.make("mixtral")
    before, live = _state(model), LiveModule(model)
    name = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
    live.commit({name: torch.ones(24, 16)})
    after = _state(model)
    fused = "model.layers.1.mlp.experts.gate_up_proj"
    assert {key for key in before if not torch.equal(before[key], after[key])} == {fused}
    assert torch.equal(after[fused][2, :24], torch.ones(24, 16))
    assert torch.equal(after[fused][2, 24:], before[fused][2, 24:])
    assert torch.equal(after[fused][[0, 1, 3]], before[fused][[0, 1, 3]])


def test_ties_stay():
    model = tiny.make("t5")
    live = LiveModule(model)
    assert "lm_head.weight" not in live.specs()
    live.commit({"shared.weight": torch.ones(50, 16)})
    assert model.lm_head.weight is model.shared.weight
    assert model.encoder.embed_tokens.weight.sum() == 800
    loose = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    loose[1].weight.data = loose[0].weight.data  # two Parameter objects, one memory
    LiveModule(loose).commit({"0.weight": torch.eye(3)})
    assert torch.equal(loose[1].weight, torch.eye(3))
    assert loose[1].weight.data_ptr() == loose[0].weight.data_ptr()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("name", ["t5", "mixtral"])
def test_all_or_nothing(name, error, monkeypatch):
    model = tiny.make(name)
    before, live = _state(model), LiveModule(model)
    pointers = {key: parameter.data_ptr() for key, parameter in model.named_parameters()}
    replace, calls = module_file._replace, []

    def stumble(holder, new):
        replace(holder, new)
        calls.append(new)
        if len(calls) == 7:
            raise error

    monkeypatch.setattr(module_file, "_replace", stumble)
    with pytest.raises(error):
        live.commit({key: torch.zeros(spec.shape) for key, spec in live.specs().items()}, dtype=torch.bfloat16)
    assert _same(before, _state(model))
    assert pointers == {key: parameter.data_ptr() for key, parameter in model.named_parameters()}
    monkeypatch.undo()
    live.commit({key: torch.zeros(spec.shape) for key, spec in live.specs().items()})
    assert not any(parameter.any() for parameter in model.parameters())


@pytest.mark.parametrize("merged", [{"no.such": torch.ones(2)}, {"weight": torch.ones(3, 2)}])
def test_commit_refuses_what_does_not_fit(merged):
    model = nn.Linear(2, 2)
    before = _state(model)
    with pytest.raises(RequestError, match="expected"):
        LiveModule(model).commit({"bias": torch.ones(2), **merged})
    assert _same(before, _state(model))


def test_dtypes_are_kept_or_all_converted():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)).to(torch.bfloat16)
    model[2].float()
    model[2](torch.ones(1, 2)).sum().backward()
    live = LiveModule(model)
    live.commit({"0.weight": torch.ones(2, 2), "2.weight": torch.ones(2, 2)})
    assert model[0].weight.dtype == torch.bfloat16
    assert model[2].weight.dtype == torch.float32
    assert model[2].weight.grad is not None
    live.commit({"0.weight": torch.zeros(2, 2)}, dtype=torch.float16)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float16, torch.int64}
    assert model[2].weight.grad is None
    assert {spec.dtype for spec in live.specs().values()} == {torch.float16}


def test_what_is_handed_over_is_not_shared_with_others():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    live, one = LiveModule(model), torch.ones(2, 2)
    live.commit({"0.weight": one, "1.weight": one})
    assert model[0].weight.data_ptr() != model[1].weight.data_ptr()
    live.commit({"0.weight": live.load("1.weight"), "1.weight": live.load("0.weight").t()})
    assert model[0].weight.data_ptr() != model[1].weight.data_ptr()
    assert model[1].weight.is_contiguous()


def test_a_second_interruption_does_not_stop_the_way_back():
    done = []

    def impatient():
        done.append("impatient")
        if done.count("impatient") == 1:
            raise KeyboardInterrupt

    module_file._roll_back([lambda: done.append("first"), impatient])
    assert done == ["impatient", "impatient", "first"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs two devices")
def test_models_on_several_devices():
    model = tiny.make("mixtral")
    model.model.layers[1].cuda()
    devices = {name: parameter.device for name, parameter in model.named_parameters()}
    other = LiveModule(tiny.make("mixtral", seed=1))
    LiveModule(model).commit({name: other.load(name).clone() for name in other.specs()})
    assert devices == {name: parameter.device for name, parameter in model.named_parameters()}
    assert _same(_state(model.cpu()), _state(other.model))


def test_memory_layout_is_kept():
    model = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    LiveModule(model).commit({"weight": torch.ones(4, 3, 2, 2)})
    assert model.weight.is_contiguous(memory_format=torch.channels_last)


def test_loading_copies_nothing():
    model = tiny.make("mixtral")
    live = LiveModule(model)
    pointers = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    assert {live.load(name).untyped_storage().data_ptr() for name in live.specs()} == pointers
    assert not any(live.load(name).requires_grad for name in live.specs())


def test_buffers_and_integers_are_apart():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer("passing", torch.ones(1), persistent=False)
    model.places = nn.Parameter(torch.arange(3), requires_grad=False)
    live = LiveModule(model)
    assert set(live.specs()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert set(live.constants()) == {"places", "1.running_mean", "1.running_var", "1.num_batches_tracked"}


def _compare(base, expert):
    problems = Problems("no")
    base = LiveModule(base)
    compare(base, live_expert(expert, base, "helpful"), problems, base.vocabulary)
    return problems.found


@pytest.mark.parametrize("name", ALL)
def test_live_experts_of_one_class_fit(name):
    base, expert = LiveModule(tiny.make(name)), tiny.make(name, seed=1)
    seen = live_expert(expert, base, "helpful")
    assert seen.specs() == base.specs()
    assert _compare(base.model, expert) == []


def test_all_differences_at_once():
    found = _compare(tiny.llama(), tiny.llama(vocabulary=53, attention_bias=True))
    assert len(found) == 2
    assert "8 tensors that the base does not have: 'model.layers.0.self_attn.q_proj.bias'" in found[0]
    assert "a vocabulary of 53 tokens, 3 more than the base's 50" in found[1]
    found = _compare(nn.Linear(2, 3), nn.Linear(3, 3, bias=False))
    assert found == [
        "helpful: 1 tensor of the base missing: 'bias'",
        "helpful: 'weight' has shape [3, 3], expected [3, 2] as in the base",
    ]


def test_buffers_must_be_equal():
    base = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    expert = copy.deepcopy(base)
    assert _compare(base, expert) == []
    assert _compare(base, copy.deepcopy(expert).to(torch.bfloat16)) == []
    expert(torch.randn(4, 2))
    assert {text.split("'")[1] for text in _compare(base, expert)} == {
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }


def test_ties_of_one_side():
    tied, untied = tiny.llama(), tiny.llama(tied=False)
    assert (
        "'lm_head.weight' and 'model.embed_tokens.weight' differ, and the base ties them" in _compare(tied, untied)[0]
    )
    with torch.no_grad():
        untied.lm_head.weight.copy_(untied.model.embed_tokens.weight)
    assert _compare(tied, untied) == []
    assert _compare(untied, tied) == []
    expert = live_expert(tied, LiveModule(untied), "helpful")
    assert torch.equal(expert.load("lm_head.weight"), tied.model.embed_tokens.weight)


def test_experts_loaded_from_other_names_are_read_in_the_bases(tmp_path):
    """Transformers remembers the names a model was loaded from; two models of one class may remember different ones."""
    base, expert = tiny.make("vit"), tiny.make("vit", seed=1)
    expert._weight_conversions = []  # as if loaded from a checkpoint with the new names
    assert set(LiveModule(base).specs()) != set(LiveModule(expert).specs())
    assert _compare(base, expert) == []
    seen = live_expert(expert, LiveModule(base), "helpful")
    name = "vit.encoder.layer.0.attention.attention.query.weight"
    assert torch.equal(seen.load(name), expert.vit.layers[0].attention.q_proj.weight)
