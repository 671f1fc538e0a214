"""Any architecture, from names and shapes alone: what a live merge gives equals a merge of the files on disk."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from hf_merge3h import RequestError, get_method, merge
from hf_merge3h.engine.plan import is_embedding
from tests.engine.models import quiet, whole_experts
from tests.models import tiny


@pytest.mark.parametrize("method", ["ties", "tsv_merge"])
@pytest.mark.parametrize("name", sorted(tiny.ARCHITECTURES))
def test_live_merge_equals_the_merge_of_the_files(tmp_path, name: str, method: str) -> None:
    base = tiny.make(name)
    experts = whole_experts(base, 2)
    for index, model in enumerate([base, *experts]):
        model.save_pretrained(tmp_path / str(index))
    live = copy.deepcopy(base)
    with quiet():
        live.merge_3h(experts, method=method, progress=False)
    live.save_pretrained(tmp_path / "live")
    files = [load_file(tmp_path / str(index) / "model.safetensors") for index in range(3)]
    found = load_file(tmp_path / "live" / "model.safetensors")
    assert found.keys() == files[0].keys()
    record = get_method(method)
    for key, old in files[0].items():
        deltas = torch.stack([file[key] - old for file in files[1:]])
        expected = old + merged(record, key, deltas)
        assert torch.allclose(found[key], expected, atol=2e-6), key


def merged(record, key: str, deltas: torch.Tensor) -> torch.Tensor:
    if record.matrix_only and (deltas.ndim != 3 or is_embedding(key)):
        return deltas.mean(0)
    result = record(deltas)
    return result if isinstance(result, torch.Tensor) else result.dense()


@pytest.mark.parametrize("name", sorted(tiny.ARCHITECTURES))
def test_folders_give_what_live_experts_give(tmp_path, name: str) -> None:
    base = tiny.make(name)
    experts = whole_experts(base, 2)
    for index, model in enumerate(experts):
        model.save_pretrained(tmp_path / str(index), max_shard_size="10KB")
    one, other = copy.deepcopy(base), copy.deepcopy(base)
    one.merge_3h(experts, method="ties", progress=False)
    other.merge_3h([tmp_path / "0", str(tmp_path / "1")], method="ties", progress=False)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_stacks_of_experts_are_matrices_one_by_one() -> None:
    """What transformers fuses in memory is merged as the matrices that lie on disk."""
    base = tiny.make("mixtral")
    experts = whole_experts(base, 2)
    with quiet():
        base.merge_3h(experts, method="tsv_merge", progress=False)
    names = [tensor.name for tensor in base.merge_report.tensors]
    assert "model.layers.0.block_sparse_moe.experts.2.w1.weight" in names
    assert all(len(tensor.shape) < 3 for tensor in base.merge_report.tensors)


def test_stacks_that_lie_on_disk_are_matrices_one_by_one_too() -> None:
    from torch import nn

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.Parameter(torch.randn(3, 8, 6))

    base = Experts()
    others = whole_experts(base, 2)
    expected = copy.deepcopy(base)
    deltas = torch.stack([other.experts.data - base.experts.data for other in others])
    with quiet():
        merge(base, others, method="tsv_merge", progress=False)
    for index in range(3):
        result = get_method("tsv_merge")(deltas[:, index])
        assert torch.allclose(base.experts.data[index], expected.experts.data[index] + result.dense(), atol=1e-5)
    assert base.merge_report.tensors[0].shape == (3, 8, 6)


def _fused_adapters(parameters: list[str], folder):
    """Two adapters of Mixtral with `target_parameters`, loaded and saved, and the base that they are for."""
    base = tiny.make("mixtral")
    model = copy.deepcopy(base)
    for number, name in enumerate(("helpful", "honest")):
        config = LoraConfig(r=3 - number, lora_alpha=4, target_modules=["q_proj"], target_parameters=parameters)
        model = model if number else get_peft_model(model, config, adapter_name=name)
        if number:
            model.add_adapter(name, config)
    draw = torch.Generator().manual_seed(0)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    model.save_pretrained(folder)
    return base, model, {name: folder / name for name in ("helpful", "honest")}


@pytest.mark.parametrize(
    ("parameters", "method"),
    [
        (["experts.down_proj"], "tsv_merge"),
        (["experts.down_proj"], "wudi"),
        (["experts.gate_up_proj", "experts.down_proj"], "task_arithmetic"),
        (["experts.gate_up_proj"], "linear"),
        (["experts.gate_up_proj"], "consensus_ta"),
        (["experts.gate_up_proj"], "ram"),
        (["experts.gate_up_proj"], "magmax"),
    ],
)
def test_adapters_of_fused_experts_are_merged_as_the_matrices_on_disk(parameters, method, tmp_path) -> None:
    """`target_parameters`: the merged adapter does what the merge of whole weights, tensor by tensor on disk, does."""
    base, model, folders = _fused_adapters(parameters, tmp_path)
    with quiet():
        whole = merge(copy.deepcopy(base), folders, method=method, progress=False)
        model.merge_3h(["helpful", "honest"], method=method, rank="exact", progress=False)
        merged = model.merge_and_unload(adapter_names=["merged"])
    before = base.state_dict()
    for name, value in whole.state_dict().items():
        change = value - before[name]
        assert (merged.state_dict()[name] - value).norm() <= 1e-5 * change.norm() + 1e-6, name


@pytest.mark.parametrize("method", ["tsv_merge", "r_tsvm", "ties", "dare_linear", "knots_dare"])
def test_methods_by_tensor_refuse_adapters_of_tensors_that_memory_fuses(method, tmp_path) -> None:
    _, model, _ = _fused_adapters(["experts.gate_up_proj"], tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RequestError, match=r"gate_up_proj' and 1 more.*fuses tensors.*hf_merge3h.merge\("):
        model.merge_3h(["helpful", "honest"], method=method, progress=False)
    assert before.keys() == model.state_dict().keys()
