import pytest
import torch
from safetensors import safe_open
from torch import nn

from hf_merge3h.errors import RequestError
from hf_merge3h.models.types import TensorSpec
from hf_merge3h.models.weights.moves import NotAMoveError, record
from hf_merge3h.models.weights.names import NameMap
from hf_merge3h.models.weights.ties import stored
from tests.models import tiny

ALL = sorted(tiny.ARCHITECTURES)


def _on_disk(model, folder):
    model.save_pretrained(folder)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _check(model, disk):
    """The map says what the file says, both ways, bit for bit."""
    names, memory = NameMap(model), stored(model).tensors
    assert set(names.by_disk) == set(disk)
    assert set(names.by_memory) == set(memory)
    for group in names.groups:
        there = names.to_disk(group, memory)
        assert {name: TensorSpec(tuple(t.shape), t.dtype) for name, t in there.items()} == dict(group.disk)
        assert all(torch.equal(tensor, disk[name]) for name, tensor in there.items())
        back = names.to_memory(group, there)
        assert all(torch.equal(tensor, memory[name]) for name, tensor in back.items())
        assert set(back) == set(group.memory)
    return names


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_save_pretrained_writes(name, dtype, tmp_path):
    model = tiny.make(name).to(dtype)
    disk = _on_disk(model, tmp_path / "first")
    _check(model, disk)
    again = type(model).from_pretrained(tmp_path / "first")
    _check(again, _on_disk(again, tmp_path / "second"))
    assert set(disk) == set(_on_disk(again, tmp_path / "third"))


@pytest.mark.parametrize("name", ALL)
def test_meta_models_have_the_same_names(name):
    model = tiny.make(name)
    expected = {name: spec for group in NameMap(model).groups for name, spec in group.disk.items()}
    with torch.device("meta"):
        empty = type(model)(model.config)
    empty.tie_weights()
    assert {name: spec for group in NameMap(empty).groups for name, spec in group.disk.items()} == expected


def test_plain_names():
    names = NameMap(tiny.make("vit"))
    memory = "vit.layers.0.attention.q_proj.weight"
    assert names.plain(memory) == "vit.encoder.layer.0.attention.attention.query.weight"
    assert names.plain("no.such") is None
    names = NameMap(tiny.make("mixtral"))
    assert names.plain("model.layers.0.mlp.experts.gate_up_proj") is None
    assert names.plain("model.norm.weight") == "model.norm.weight"


def test_stacks_of_experts_are_matrices_on_disk():
    names = NameMap(tiny.make("mixtral"))
    group = names.by_memory["model.layers.1.mlp.experts.gate_up_proj"]
    assert len(group.disk) == 8
    assert {spec.shape for spec in group.disk.values()} == {(24, 16)}
    assert len(names.by_memory["model.layers.1.mlp.experts.down_proj"].disk) == 4


def test_views_where_possible_and_one_of_many():
    model = tiny.make("mixtral")
    names, memory = NameMap(model), stored(model).tensors
    group = names.by_memory["model.layers.0.mlp.experts.gate_up_proj"]
    stack = memory["model.layers.0.mlp.experts.gate_up_proj"]
    everything = names.to_disk(group, memory)
    for name in group.disk:
        one = names.pick(group, memory, [name])
        assert set(one) == {name}
        assert torch.equal(one[name], everything[name])
        assert one[name].untyped_storage().data_ptr() == stack.untyped_storage().data_ptr()


def test_deltas_go_the_same_way():
    names = NameMap(tiny.make("qwen2_moe"))
    group = next(group for group in names.groups if group.program is not None)
    one, other = (
        {name: torch.randn(spec.shape, dtype=torch.float64) for name, spec in group.memory.items()} for _ in range(2)
    )
    total = names.to_disk(group, {name: one[name] + other[name] for name in one})
    parts = names.to_disk(group, one), names.to_disk(group, other)
    assert all(torch.equal(total[name], parts[0][name] + parts[1][name]) for name in total)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_any_gradient_mode(mode):
    model = tiny.make("mixtral")
    names, memory = NameMap(model), stored(model).tensors
    with mode():
        for group in names.groups:
            back = names.to_memory(group, {n: t.clone() for n, t in names.to_disk(group, memory).items()})
            assert all(torch.equal(tensor, memory[name]) for name, tensor in back.items())
            assert not any(tensor.requires_grad for name, tensor in back.items() if group.program is not None)


def test_signs_of_zero_and_nan_survive():
    names = NameMap(tiny.make("mixtral"))
    group = next(group for group in names.groups if group.program is not None)
    disk = {name: torch.full(spec.shape, -0.0) for name, spec in group.disk.items()}
    disk[next(iter(disk))].fill_(float("nan"))
    there = names.to_disk(group, names.to_memory(group, disk))
    assert all(torch.equal(disk[name].view(torch.int32), there[name].view(torch.int32)) for name in disk)


def test_ties():
    names = NameMap(tiny.make("t5"))
    assert names.aliases == {
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    }
    assert NameMap(tiny.llama(tied=False)).aliases == {}


def test_other_modules_have_one_set_of_names():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    module[2].weight = nn.Parameter(module[0].weight.data.view(2, 3).clone())
    names = NameMap(module)
    assert list(names.by_disk) == [each for each in names.by_memory] == [*stored(module).tensors]  # noqa: C416
    assert all(names.plain(name) == name for name in names.by_memory)
    assert "1.num_batches_tracked" in names.by_disk


def test_parameters_that_share_memory_are_tied():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    module[2].weight.data = module[0].weight.data
    assert stored(module).aliases == {"1.weight": "0.weight", "2.weight": "0.weight"}


def test_parameters_that_overlap_are_refused():
    memory = torch.zeros(10)
    module = nn.ParameterList([nn.Parameter(memory[:6]), nn.Parameter(memory[4:])])
    with pytest.raises(RequestError, match="overlap in memory"):
        NameMap(module)
    apart = nn.ParameterList([nn.Parameter(memory[:5]), nn.Parameter(memory[5:])])  # as in a flattened LSTM
    assert list(NameMap(apart).by_disk) == ["0", "1"]


def test_a_conversion_that_computes_is_refused():
    with pytest.raises(NotAMoveError, match="'mul'"):
        record(lambda tensors: {"b": tensors["a"] * 2}, {"a": (2,)})
    with pytest.raises(NotAMoveError, match="4 entries in memory, 2 on disk"):
        record(lambda tensors: {"b": tensors["a"][:2]}, {"a": (4,)})
    with pytest.raises(NotAMoveError, match="made of nothing"):
        record(lambda tensors: {**tensors, "c": torch.zeros(2)}, {"a": (4,)})


def test_many_to_many_with_permutations():
    def convert(tensors):
        fused = torch.cat([tensors["a"], tensors["b"]], dim=0).view(2, 3, 4).transpose(0, 1).reshape(6, 4).contiguous()
        first, second = fused.chunk(2)
        return {"x": first.contiguous(), "y": second.t().contiguous(), "z": tensors["c"]}

    plain, program = sorted(record(convert, {"a": (4, 4), "b": (2, 4), "c": (1,)}), key=lambda each: len(each.inputs))
    assert (set(plain.inputs), set(plain.outputs), plain.steps) == ({"c"}, {"z"}, ())
    given = {"a": torch.randn(4, 4), "b": torch.randn(2, 4).t().contiguous().t()}
    made, expected = program.run(given), convert({**given, "c": torch.zeros(1)})
    assert all(torch.equal(made[name], expected[name]) for name in ("x", "y"))
    assert all(torch.equal(tensor, given[name]) for name, tensor in program.invert(made).items())
