"""`peft_model.merge_3h`: adapters in, an adapter out."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from hf_merge3h import MergeWarning, RequestError, get_method, merge
from tests.engine.models import (
    METHODS,
    ROLES,
    deltas,
    expert_count,
    llama,
    peft_model,
    quiet,
    same,
    state,
    three_adapters,
    whole_experts,
)

ON_ADAPTERS = [
    name
    for name in METHODS
    if "base" not in get_method(name).needs
    and get_method(name).takes_deltas(get_method(name).bind({}), (1.0, 1.0, 1.0))
]
EXACT = [name for name in ON_ADAPTERS if get_method(name).low_rank is not None]
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.mark.parametrize("method", ON_ADAPTERS)
def test_a_merged_adapter_is_the_merge_of_the_dense_deltas(method: str) -> None:
    model = three_adapters(llama(tied=False))
    roles = ROLES[: expert_count(method)]
    options = {"granularity": "channel"} if method == "r_tsvm" else {}
    sources = [deltas(model, role) for role in roles]
    with quiet():
        model.merge_3h(list(roles), method=method, rank="exact", progress=False, **options)
    result = deltas(model, "merged")
    if get_method(method).random or method == "r_tsvm":
        expected = merged_weights(model, roles, method, options)
    else:
        order = sorted(range(len(roles)), key=lambda index: roles[index])
        expected = {
            name: get_method(method)(torch.stack([sources[index][name] for index in order])) for name in sources[0]
        }
    for name, wanted in expected.items():
        wanted = wanted if isinstance(wanted, torch.Tensor) else wanted.dense()
        assert (result[name] - wanted).norm() <= 2e-5 * wanted.norm(), name


def merged_weights(model: PeftModel, roles, method: str, options: dict) -> dict[str, torch.Tensor]:
    """The change that the same merge of merged models makes, tensor by tensor."""
    base = llama(tied=False)
    wholes = {}
    for role in roles:
        whole = copy.deepcopy(model)
        whole.set_adapter(role)
        wholes[role] = whole.merge_and_unload(adapter_names=[role])
    merged = copy.deepcopy(base)
    with quiet():
        merged.merge_3h(wholes, method=method, progress=False, **options)
    return {name: merged.state_dict()[name] - base.state_dict()[name] for name in deltas(model, roles[0])}


@pytest.mark.parametrize("method", EXACT)
def test_low_rank_methods_are_exact_at_the_sum_of_the_ranks(method: str) -> None:
    model = three_adapters(llama())
    roles = list(ROLES[: expert_count(method)])
    with quiet():
        model.merge_3h(roles, method=method, progress=False)
    report = model.merge_report
    assert report.output["rank"] <= 4 + 3 + 2
    assert report.total.residual is None or report.total.residual < 1e-6


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_saving_and_loading_again_gives_the_same_logits(tmp_path, dtype) -> None:
    base = llama(tied=False)
    model = three_adapters(base)
    with quiet():
        model.merge_3h(list(ROLES), method="r_tsvm", adapter_name="balanced", dtype=dtype, progress=False)
    assert model.active_adapters == ["balanced"]
    with torch.no_grad():
        expected = model(TOKENS).logits
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "balanced")
        # PEFT loads 16-bit factors into float32: the same values, but arithmetic of another precision
        assert torch.allclose(again(TOKENS).logits, expected, atol=1e-5 if dtype is None else 3e-3)
        saved, live = deltas(again, "default"), deltas(model, "balanced")
        assert all(torch.equal(saved[name], live[name]) for name in live)
        with model.disable_adapter():
            assert torch.allclose(model(TOKENS).logits, base(TOKENS).logits, atol=1e-6)


def test_sources_are_not_touched_and_names_are_kept() -> None:
    model = three_adapters(llama())
    before = state(model)
    with quiet():
        model.merge_3h(list(ROLES), adapter_name="balanced", progress=False)
    after = {name: value for name, value in state(model).items() if ".balanced." not in name}
    assert same(before, after)
    with pytest.raises(RequestError, match=r"adapter_name='balanced': expected a new name.*overwrite=True"):
        model.merge_3h(list(ROLES), adapter_name="balanced", progress=False)
    old = deltas(model, "balanced")
    with quiet():
        model.merge_3h(list(ROLES), adapter_name="balanced", method="linear", overwrite=True, progress=False)
    new = deltas(model, "balanced")
    assert any(not torch.allclose(old[name], new[name], atol=1e-6) for name in old)


def test_folders_beside_loaded_adapters(tmp_path) -> None:
    base = llama()
    model = three_adapters(base)
    model.save_pretrained(tmp_path)
    with quiet():
        model.merge_3h(list(ROLES), method="tsv_merge", adapter_name="loaded", progress=False)
        model.merge_3h(
            dict(zip(ROLES, ("helpfulness", tmp_path / ROLES[1], tmp_path / ROLES[2]), strict=True)),
            method="tsv_merge", adapter_name="mixed", progress=False,
        )  # fmt: skip
    one, other = deltas(model, "loaded"), deltas(model, "mixed")
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_a_rank_cut_is_measured_and_warned_of() -> None:
    model = three_adapters(llama())
    with pytest.warns(MergeWarning, match=r"cutting the result to the adapter's rank loses"):
        model.merge_3h(list(ROLES), method="ties", progress=False)
    cut = model.merge_report
    assert cut.total.residual > 0.05
    assert cut.output["rank"] == 9
    assert cut.output["max_lora_rank"] == 16
    assert "residual" in repr(cut)
    exact = deltas_after(model, method="ties", rank="exact", adapter_name="exact")
    found = deltas(model, "merged")
    for name, wanted in exact.items():
        values = torch.linalg.svdvals(wanted.double())
        best = values[9:].norm() / values.norm()
        assert ((found[name] - wanted).norm() / wanted.norm()).item() == pytest.approx(best.item(), rel=1e-3), name


def deltas_after(model: PeftModel, **options) -> dict[str, torch.Tensor]:
    with quiet():
        model.merge_3h(list(ROLES), progress=False, **options)
    return deltas(model, options["adapter_name"])


def test_a_given_rank_is_the_best_of_that_rank() -> None:
    model = three_adapters(llama())
    exact = deltas_after(model, method="task_arithmetic", adapter_name="all")
    cut = deltas_after(model, method="task_arithmetic", rank=2, adapter_name="two")
    for name, wanted in exact.items():
        values = torch.linalg.svdvals(wanted.double())
        assert (cut[name] - wanted).norm().item() == pytest.approx(values[2:].norm().item(), rel=1e-3)


def test_bare_modules_and_zero_weights() -> None:
    """Adapters need no transformers model, and no base weights."""
    net = nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 4, bias=False))
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    model = get_peft_model(net, LoraConfig(r=2, target_modules=["0", "2"]), adapter_name="one")
    model.add_adapter("two", LoraConfig(r=3, target_modules=["0"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    sources = [deltas(model, name) for name in ("one", "two")]
    with quiet():
        model.merge_3h(["one", "two"], method="task_arithmetic", weights={"one": 0.5, "two": -2.0}, progress=False)
    result = deltas(model, "merged")
    assert torch.allclose(result["0.weight"], 0.5 * sources[0]["0.weight"] - 2 * sources[1]["0.weight"], atol=1e-5)
    assert torch.allclose(result["2.weight"], 0.5 * sources[0]["2.weight"], atol=1e-5)


def test_no_weight_of_the_base_is_read() -> None:
    """LoRAs merge over bases whose weights are no numbers (4-bit): here they are not even there."""
    model = three_adapters(llama())
    for name, module in model.get_base_model().named_modules():
        if "lora_" not in name:
            for key, parameter in module.named_parameters(recurse=False):
                module._parameters[key] = nn.Parameter(parameter.to("meta"), requires_grad=False)
    with quiet():
        model.merge_3h(list(ROLES), progress=False)
    assert torch.isfinite(torch.cat([delta.flatten() for delta in deltas(model, "merged").values()])).all()


def test_whole_modules_and_dora_beside_lora() -> None:
    base = llama(tied=False)
    model = peft_model(
        base,
        {
            "plain": {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]},
            "dora": {"target_modules": ["q_proj"], "use_dora": True},
        },
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name or "magnitude" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    sources = [deltas(model, name) for name in ("plain", "dora")]
    with quiet():
        model.merge_3h(["plain", "dora"], method="task_arithmetic", progress=False)
    result = deltas(model, "merged")
    assert set(result) == set(sources[0]) | set(sources[1])
    for name, delta in result.items():
        wanted = sum(source[name] for source in sources if name in source)
        assert (delta - wanted).norm() <= 1e-4 * wanted.norm(), name


@pytest.mark.parametrize("failure", [RuntimeError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["writing", "reporting"])
def test_a_failure_while_writing_changes_nothing(monkeypatch, failure: BaseException, place: str) -> None:
    from hf_merge3h.engine import live_report
    from hf_merge3h.models.adapters import write

    model = three_adapters(llama())
    with quiet():
        model.merge_3h(list(ROLES), adapter_name="merged", progress=False)
        model.set_adapter("honesty")
    before, configs = state(model), dict(model.peft_config)
    report = model.merge_report

    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(*((write, "_fill_layer") if place == "writing" else (live_report, "fingerprint")), fail)
    with pytest.raises(type(failure)):
        model.merge_3h(list(ROLES), method="linear", adapter_name="merged", overwrite=True, progress=False)
    assert same(before, state(model))
    assert model.peft_config == configs
    assert model.active_adapters == ["honesty"]
    assert model.merge_report is report


def test_bases_that_disagree_only_warn() -> None:
    model = three_adapters(llama())
    model.peft_config["honesty"].base_model_name_or_path = "me/other"
    model.peft_config["helpfulness"].base_model_name_or_path = "me/base"
    with pytest.warns(MergeWarning, match="different bases"):
        model.merge_3h(list(ROLES), method="linear", progress=False)


BAD = [
    (["helpfulness", "honest"], {}, r"'honest': expected the name of a loaded adapter"),
    (["helpfulness", "helpfulness"], {}, "given twice"),
    (list(ROLES), {"rank": 0}, "rank=0"),
    (list(ROLES), {"rank": "all"}, "rank='all'"),
    (list(ROLES), {"adapter_name": "a.b"}, r"adapter_name='a\.b'"),
    (list(ROLES)[:2], {"method": "slerp"}, "method='slerp'.*needs whole weights"),
    (list(ROLES)[:1], {"method": "arcee_fusion"}, "method='arcee_fusion'.*needs whole weights"),
    (list(ROLES), {"method": "linear", "normalize": False, "weights": [1, 2, 3]}, "needs whole weights"),
]


@pytest.mark.parametrize(("adapters", "options", "message"), BAD, ids=[message[:22] for *_, message in BAD])
def test_bad_requests_change_nothing(adapters: list, options: dict, message: str) -> None:
    model = three_adapters(llama())
    before = state(model)
    with pytest.raises(RequestError, match=message):
        model.merge_3h(adapters, progress=False, **options)
    assert same(before, state(model))


def test_a_whole_model_among_adapters_is_sent_to_the_other_door() -> None:
    base = llama()
    model = three_adapters(base)
    with pytest.raises(RequestError, match="whole models merge into whole weights"):
        model.merge_3h({"helpful": "helpfulness", "honest": whole_experts(base, 1)[0]}, progress=False)
    with pytest.raises(RequestError, match=r"call merge_3h on the PeftModel|unload"):
        model.get_base_model().merge_3h(whole_experts(base, 2), progress=False)


def test_merge_takes_a_peft_model_as_base() -> None:
    model = three_adapters(llama())
    with quiet():
        assert merge(model, list(ROLES), method="linear", adapter_name="balanced", progress=False) is model
    assert "balanced" in model.peft_config
    with pytest.raises(RequestError, match="rank=4: expected a PeftModel as base"):
        merge(llama(), whole_experts(llama(), 2), rank=4, progress=False)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch 2.13's own, in torch.compile
def test_a_compiled_wrapper_is_refused_at_the_door() -> None:
    """`torch.compile` returns a wrapper that forwards what it does not know to the model inside."""
    model = three_adapters(llama(tied=False))
    before = state(model)
    for call in (torch.compile(model).merge_3h, torch.compile(model.get_base_model()).merge_3h):
        with pytest.raises(RequestError, match=r"OptimizedModule was compiled by torch.compile.*model\._orig_mod"):
            call(list(ROLES), progress=False)
    with pytest.raises(RequestError, match=r"OptimizedModule was compiled.*_orig_mod"):
        merge(torch.compile(model), list(ROLES), progress=False)
    inside = get_peft_model(torch.compile(llama(tied=False)), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(RequestError, match=r"'the base' was compiled.*before the adapters were put in"):
        inside.merge_3h(["default", "other"], progress=False)
    same(before, state(model))


def test_compiling_in_place_sees_the_merged_adapter() -> None:
    compiled, plain = (three_adapters(llama(tied=False)).eval() for _ in range(2))
    compiled.compile(backend="eager")
    with torch.no_grad():
        compiled(TOKENS)
    for model in (compiled, plain):
        with quiet():
            model.merge_3h(list(ROLES), method="tsv_merge", progress=False)
    with torch.no_grad():
        torch.testing.assert_close(compiled(TOKENS).logits, plain(TOKENS).logits)
