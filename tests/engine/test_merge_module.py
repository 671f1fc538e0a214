"""`model.merge_3h`: whole weights, in place, all or nothing."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_merge3h import MergeWarning, RequestError, get_method, merge
from hf_merge3h.models.weights.module import LiveModule
from tests.engine.models import (
    METHODS,
    ROLES,
    expert_count,
    llama,
    peft_model,
    quiet,
    same,
    state,
    three_adapters,
    whole_experts,
)

LORA = {"r": 3, "target_modules": ["q_proj", "down_proj"]}

# Masks depend on the tensors' names; r_tsvm counts over the whole model. Both have tests of their own below.
LOCAL = [name for name in METHODS if not get_method(name).random and get_method(name).name != "r_tsvm"]


@pytest.mark.parametrize("method", LOCAL)
def test_each_tensor_is_what_the_method_makes_of_it(method: str) -> None:
    base = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 10, bias=False))
    experts = whole_experts(base, expert_count(method))
    record = get_method(method)
    merged = copy.deepcopy(base)
    with quiet():
        merge(merged, experts, method=method, progress=False)
    for name, old in base.state_dict().items():
        weights = torch.stack([expert.state_dict()[name] for expert in experts])
        if record.space == "weight":
            expected = record(weights)
        else:
            extra = {"base": old} if "base" in record.needs else {}
            change = record(weights - old, **extra)
            expected = old + (change if isinstance(change, torch.Tensor) else change.dense())
        assert torch.allclose(merged.state_dict()[name], expected, atol=1e-6), name


@pytest.mark.parametrize("method", [name for name in METHODS if name != "r_tsvm"])
def test_an_adapter_counts_as_the_model_it_makes(method: str) -> None:
    """Adapters, live PeftModels and merged models are three ways to say the same thing."""
    base = llama()
    sources = [peft_model(base, {"one": LORA}, seed=seed) for seed in range(expert_count(method))]
    wholes = [copy.deepcopy(source).merge_and_unload() for source in sources]
    one, other = copy.deepcopy(base), copy.deepcopy(base)
    with quiet():
        one.merge_3h(sources, method=method, progress=False)
        other.merge_3h(wholes, method=method, progress=False)
    change = max((one.state_dict()[name] - value).abs().max() for name, value in base.state_dict().items())
    for name, value in one.state_dict().items():
        far = (value - other.state_dict()[name]).abs()
        # A threshold may fall between two equal magnitudes that rounding tells apart: hardly any entry may differ.
        assert (far > 1e-4 * change).float().mean() < 0.02, name


def test_r_tsvm_is_the_same_for_adapters_and_models_at_one_granularity() -> None:
    base = llama()
    sources = [peft_model(base, {"one": LORA}, seed=seed) for seed in range(3)]
    wholes = [copy.deepcopy(source).merge_and_unload() for source in sources]
    one, other = copy.deepcopy(base), copy.deepcopy(base)
    with quiet():
        one.merge_3h(sources, method="r_tsvm", granularity="channel", progress=False)
        other.merge_3h(wholes, method="r_tsvm", granularity="channel", progress=False)
    for name, value in one.state_dict().items():
        change = (value - base.state_dict()[name]).norm()
        assert (value - other.state_dict()[name]).norm() <= 1e-4 * change + 1e-6, name


def test_a_mix_of_full_model_folder_and_adapter(tmp_path) -> None:
    base = llama()
    full = whole_experts(base, 1)[0]
    full.save_pretrained(tmp_path / "full")
    adapter = peft_model(base, {"one": LORA}, seed=1)
    adapter.save_pretrained(tmp_path / "adapter")
    merged, expected = copy.deepcopy(base), copy.deepcopy(base)
    live = peft_model(base, {"one": LORA}, seed=2)
    parts = [full, copy.deepcopy(adapter).merge_and_unload(), copy.deepcopy(live).merge_and_unload()]
    with quiet():
        merged.merge_3h(
            {"helpful": tmp_path / "full", "honest": str(tmp_path / "adapter" / "one"), "harmless": live},
            method="task_arithmetic", weights={"helpful": 0.5, "honesty": 0.3, "harmless": 0.2}, progress=False,
        )  # fmt: skip
    for name, value in expected.state_dict().items():
        for weight, part in zip((0.5, 0.3, 0.2), parts, strict=True):
            value = value + weight * (part.state_dict()[name] - base.state_dict()[name])
        assert torch.allclose(merged.state_dict()[name], value, atol=1e-6), name
    assert merged.merge_report.roles == tuple(sorted(ROLES))


def test_the_order_of_a_dict_changes_no_bit() -> None:
    base = llama()
    experts = dict(zip(ROLES, whole_experts(base), strict=True))
    for method in ("ties", "dare_ties", "della_linear", "task_arithmetic", "model_stock", "r_tsvm"):
        one, other = copy.deepcopy(base), copy.deepcopy(base)
        with quiet():
            one.merge_3h(experts, method=method, progress=False)
            other.merge_3h(dict(reversed(experts.items())), method=method, progress=False)
        assert same(state(one), state(other)), method


@pytest.mark.parametrize("live", [True, False])
def test_the_order_of_a_list_changes_no_bit(live, tmp_path) -> None:
    """Roles are positions there, but what is added up first is told by the experts themselves: paths, or content."""
    base = llama()
    experts = whole_experts(base)
    if not live:
        for number, expert in enumerate(experts):
            expert.save_pretrained(tmp_path / f"{number}")
        experts = [str(tmp_path / f"{number}") for number in range(len(experts))]
    for method in ("linear", "ties", "task_arithmetic", "model_stock", "sce", "breadcrumbs", "tsv_merge"):
        results = []
        for places in ((0, 1, 2), (2, 0, 1), (1, 0, 2)):
            merged = copy.deepcopy(base)
            weights = None if not get_method(method).weighted else [(0.5, 0.3, 0.2)[place] for place in places]
            with quiet():
                merged.merge_3h([experts[at] for at in places], method=method, weights=weights, progress=False)
            results.append(state(merged))
        assert same(results[0], results[1]), method
        assert same(results[0], results[2]), method


def test_random_masks_follow_seed_role_and_name() -> None:
    base = llama()
    experts = dict(zip(ROLES, whole_experts(base), strict=True))
    results = []
    for seed in (0, 0, 1):
        merged = copy.deepcopy(base)
        with quiet():
            merged.merge_3h(experts, method="dare_linear", seed=seed, progress=False)
        results.append(state(merged))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_the_model_stays_itself() -> None:
    base = llama(tied=True)
    base.model.embed_tokens.weight.requires_grad_(False)
    parameters = dict(base.named_parameters())
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    experts = whole_experts(base)
    before = [state(expert) for expert in experts]
    assert base.merge_3h(experts, method="linear", progress=False) is base
    assert all(parameters[name] is parameter for name, parameter in base.named_parameters())
    assert {name: parameter.requires_grad for name, parameter in base.named_parameters()} == flags
    assert base.lm_head.weight is base.model.embed_tokens.weight
    assert all(same(old, state(expert)) for old, expert in zip(before, experts, strict=True))


def test_the_report_is_plain_data_and_readable(tmp_path) -> None:
    base = llama()
    experts = dict(zip(ROLES, whole_experts(base), strict=True))
    with pytest.warns(MergeWarning, match=r"times as large as the largest expert's.*scale"):
        base.merge_3h(experts, method="task_arithmetic", progress=False)
    report = base.merge_report
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["method"] == "task_arithmetic"
    assert plain["weights"] == [1.0, 1.0, 1.0]
    assert {block["name"] for block in plain["blocks"]} >= {"model.layers.0", "model.layers.1", "model.embed_tokens"}
    assert not any(isinstance(value, (torch.Tensor, nn.Module)) for value in vars(report).values())
    text = repr(report)
    for word in (*ROLES, "model.layers.1", "|merged|", "conflict", "survived", "warning: the merged delta"):
        assert word in text
    assert repr(copy.deepcopy(base).merge_report) == text
    assert repr(pickle.loads(pickle.dumps(base)).merge_report) == text
    for dark in (False, True):
        path = tmp_path / f"{dark}.png"
        report.plot(path, dark=dark)
        assert path.stat().st_size > 10_000


def test_the_figures_of_the_report_are_those_of_the_tensors() -> None:
    base = llama()
    experts = whole_experts(base, 2)
    merged = copy.deepcopy(base)
    with quiet():
        merged.merge_3h(experts, method="ties", progress=False)

    def flat(model: nn.Module, key: str) -> torch.Tensor:
        changes = [p.double() - base.get_parameter(n).double() for n, p in model.named_parameters() if key in n]
        return torch.cat([change.flatten() for change in changes])

    for block in merged.merge_report.blocks:
        one, two, result = (flat(model, block.name + ".") for model in (*experts, merged))
        assert block.norms == pytest.approx((one.norm().item(), two.norm().item()), rel=1e-4)
        assert block.merged_norm == pytest.approx(result.norm().item(), rel=1e-3)
        assert block.cosines[0][1] == pytest.approx((one @ two / one.norm() / two.norm()).item(), abs=1e-4)
        conflict = ((one > 0) & (two < 0) | (one < 0) & (two > 0)).double().mean().item()
        assert block.sign_conflict == pytest.approx(conflict, abs=1e-6)


def test_what_the_dtype_swallows_is_reported() -> None:
    base = llama().to(torch.bfloat16)
    experts = whole_experts(base.float(), 1, spread=1e-4)
    base = base.to(torch.bfloat16)
    with pytest.warns(MergeWarning, match="bfloat16 swallows"):
        base.merge_3h(experts, method="task_arithmetic", progress=False)
    assert 0.2 < base.merge_report.total.survived < 0.9
    assert base.dtype == torch.bfloat16


def test_dtype_converts_the_whole_model() -> None:
    base = llama()
    base.merge_3h(whole_experts(base), method="linear", dtype="bfloat16", progress=False)
    assert {parameter.dtype for parameter in base.parameters()} == {torch.bfloat16}
    assert base.merge_report.output["dtype"] == "bfloat16"


def test_another_base_than_the_live_model() -> None:
    """Task vectors are counted from `base`, and added to it, whatever the live model held."""
    origin = llama()
    experts = whole_experts(origin)
    live = whole_experts(origin, 1, spread=1.0)[0]
    expected = copy.deepcopy(origin)
    with quiet():
        expected.merge_3h(experts, method="ties", progress=False)
        live.merge_3h(experts, method="ties", base=origin, progress=False)
    assert same(state(expected), state(live))


def test_merge_loads_a_folder_or_the_base_that_adapters_record(tmp_path) -> None:
    base = llama()
    base.save_pretrained(tmp_path / "base")
    model = three_adapters(base)
    for config in model.peft_config.values():
        config.base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapters")
    folders = [tmp_path / "adapters" / role for role in ROLES]
    with quiet():
        given = merge(str(tmp_path / "base"), folders, method="task_arithmetic", progress=False)
        recorded = merge(None, folders, method="task_arithmetic", progress=False)
    assert same(state(given), state(recorded))
    assert not same(state(given), state(base))
    config = (folders[1] / "adapter_config.json").read_text()
    (folders[1] / "adapter_config.json").write_text(config.replace(str(tmp_path / "base"), "someone/else"))
    with pytest.raises(RequestError, match="record different bases"):
        merge(None, folders, progress=False)


def test_statistics_of_the_whole_model_are_the_same_in_any_order() -> None:
    """TIES over the whole model: one threshold an expert, whatever tensor comes first."""
    base = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 7))
    experts = whole_experts(base)
    merged = copy.deepcopy(base)
    with quiet():
        merge(merged, experts, method="ties", trim_scope="model", density=0.3, progress=False)
    flat = [torch.cat([(e.state_dict()[n] - v).flatten() for n, v in base.state_dict().items()]) for e in experts]
    expected = get_method("ties")(torch.stack(flat), density=0.3)
    result = torch.cat([(merged.state_dict()[n] - v).flatten() for n, v in base.state_dict().items()])
    assert torch.allclose(result, expected, atol=1e-6)


def test_singular_values_that_storage_makes_are_reported_and_dropped_on_request() -> None:
    """A change of rank one, stored in bfloat16, comes back with a full spectrum of rounding noise."""
    torch.manual_seed(0)
    base = nn.Linear(64, 64, bias=False)
    experts = []
    for _ in range(2):
        expert = copy.deepcopy(base)
        with torch.no_grad():
            expert.weight += torch.outer(torch.randn(64), torch.randn(64)) * 0.01
        experts.append(expert.to(torch.bfloat16))
    base = base.to(torch.bfloat16)
    noisy, clean = copy.deepcopy(base), copy.deepcopy(base)
    with pytest.warns(MergeWarning, match=r"of the 64 singular values that were kept are no larger.*denoise=True"):
        merge(noisy, experts, method="tsv_merge", progress=False)
    assert noisy.merge_report.tensors[0].noisy_rank > 40
    merge(clean, experts, method="tsv_merge", denoise=True, progress=False)
    assert clean.merge_report.tensors[0].noisy_rank == 0
    assert clean.merge_report.tensors[0].kept_rank < 12


@pytest.mark.parametrize("method", ["ties", "r_tsvm"])
def test_what_torch_is_set_to_changes_nothing(method: str) -> None:
    base = llama()
    experts = whole_experts(base)
    plain = copy.deepcopy(base)
    with quiet():
        plain.merge_3h(experts, method=method, progress=False)
        for context in (torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode()):
            other = copy.deepcopy(base)
            with context:
                other.merge_3h(experts, method=method, progress=False)
            assert same(state(plain), state(other))
            other(torch.tensor([[1, 2, 3]])).logits.sum().backward()
        torch.set_float32_matmul_precision("medium")
        try:
            other = copy.deepcopy(base)
            other.merge_3h(experts, method=method, progress=False)
            assert torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision("highest")
    assert same(state(plain), state(other))


@pytest.mark.parametrize("method", ["ties", "tsv_merge", "slerp"])
def test_single_numbers_are_parameters_too(method: str) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.linear = nn.Linear(4, 3)

    base = Scaled()
    experts = whole_experts(base, 2)
    with quiet():
        merge(base, experts, method=method, progress=False)
    assert base.scale.shape == ()
    assert torch.isfinite(base.scale)


def test_float64_weights_that_nobody_changes_keep_their_bits() -> None:
    base = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).double()
    before = state(base)
    experts = [copy.deepcopy(base) for _ in range(2)]
    with torch.no_grad():
        for expert in experts:
            expert[0].weight += 0.1
    merge(base, experts, method="linear", progress=False)
    assert torch.equal(before["1.weight"], base[1].weight)
    assert torch.allclose(base[0].weight, before["0.weight"] + 0.1, atol=1e-7)


def test_factors_are_added_to_large_weights_one_by_one() -> None:
    """LoRAs into whole weights: no more than a few of the largest tensors are in memory at a time."""
    base = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(8)))
    adapters = [peft_model(base, {"one": {"target_modules": [str(i) for i in range(8)]}}, seed=s) for s in range(2)]
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                sizes.append(result.numel())
            return result

    with quiet(), Watch():
        merge(base, adapters, method="task_arithmetic", progress=False)
    assert max(sizes) <= 4 * 1024 * 1024


def test_the_base_is_read_once_for_a_merge_and_not_for_measuring() -> None:
    base = llama()
    adapters = [peft_model(base, {"one": LORA}, seed=seed) for seed in range(2)]
    reads: list[str] = []
    original = LiveModule.load

    def load(self: LiveModule, name: str) -> torch.Tensor:
        reads.append(name)
        return original(self, name)

    with quiet(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveModule, "load", load)
        base.merge_3h(adapters, method="r_tsvm", progress=False)
    changed = len(base.merge_report.tensors)
    assert len(set(reads)) == changed
    assert len(reads) <= 2 * changed  # once to merge, once to write


def test_two_fine_tunes_merge_into_one_of_them() -> None:
    base = llama()
    one, two = whole_experts(base, 2)
    expected = copy.deepcopy(base)
    expected.merge_3h([one, two], method="linear", progress=False)
    one.merge_3h([one, two], method="linear", base=base, progress=False)
    assert same(state(one), state(expected))
