"""Merging whole models: what is refused, and what an error leaves behind."""

from __future__ import annotations

import copy
import re
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hf_merge3h import MergeWarning, RequestError, SourceError, merge
from tests.engine.models import (
    ROLES,
    llama,
    peft_model,
    same,
    state,
    three_adapters,
    whole_experts,
)
from tests.models import tiny

LORA = {"r": 3, "target_modules": ["q_proj", "down_proj"]}


@pytest.mark.parametrize("failure", [RuntimeError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["merging", "writing", "reporting"])
def test_a_failure_leaves_everything_as_it_was(monkeypatch, failure: BaseException, place: str) -> None:
    base = llama()
    before, ids = state(base), {name: id(p) for name, p in base.named_parameters()}
    calls = 0

    def fail(*args, original=None, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 5 or place == "reporting":
            raise failure
        return original(*args, **kwargs)

    if place == "merging":
        from hf_merge3h.engine import run as module

        name = "merge_stack"
    elif place == "reporting":
        from hf_merge3h.engine import live_report as module  # type: ignore[no-redef]

        name = "fingerprint"
    else:
        from hf_merge3h.models.weights import module  # type: ignore[no-redef]

        name = "_fresh"
    original = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **kwargs: fail(*args, original=original, **kwargs))
    with pytest.raises(type(failure)):
        base.merge_3h(whole_experts(base), method="linear", progress=False)
    assert calls == (1 if place == "reporting" else 5)
    assert same(before, state(base))
    assert ids == {name: id(p) for name, p in base.named_parameters()}
    assert not hasattr(base, "merge_report")


def test_non_finite_numbers_are_found_and_named() -> None:
    base = llama()
    experts = dict(zip(ROLES, whole_experts(base), strict=True))
    with torch.no_grad():
        experts["honesty"].model.layers[1].mlp.up_proj.weight[3, 2] = float("inf")
    before = state(base)
    with pytest.raises(
        RequestError,
        match=r"honesty.*model\.layers\.1\.mlp\.up_proj\.weight.*1 entry that is not finite.*inf at \[3, 2\]",
    ):
        base.merge_3h(experts, method="ties", progress=False)
    assert same(before, state(base))


BAD = [
    ({"method": "tise"}, "method='tise': unknown; did you mean 'ties'"),
    ({"method": "ties", "density": 1.5}, r"density=1\.5: expected a number in"),
    ({"method": "ties", "densty": 0.5}, "densty=0.5.*no such parameter.*did you mean 'density'"),
    ({"method": "ties", "density": [0.1, 0.2]}, "density=.*one number for each of the 3 experts"),
    ({"weights": [1, 2]}, r"weights=\[1, 2\]: expected 3 numbers"),
    ({"weights": [0, 0, 0]}, "weights=.*not zero"),
    ({"weights": [1, float("nan"), 1]}, "weights=.*finite"),
    ({"weights": {"helpful": 1, "honest": 1}}, "weights lacks 'harmlessness'"),
    ({"weights": {"helpful": 1, "honest": 1, "harmless": 1, "humble": 2}}, "weights has 'humble', which is no expert"),
    ({"method": "slerp"}, "3 given, but method 'slerp' merges exactly 2"),
    ({"method": "model_stock", "weights": [1, 2, 3]}, "weights=.*equal weights"),
    ({"device": "tpu"}, "device='tpu'"),
    ({"dtype": "int8"}, "dtype='int8'"),
    ({"seed": 0.5}, "seed=0.5"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message[:24] for _, message in BAD])
def test_bad_requests_change_nothing(options: dict, message: str) -> None:
    base = llama()
    before = state(base)
    experts = dict(zip(ROLES, whole_experts(base), strict=True))
    with pytest.raises(RequestError, match=message):
        base.merge_3h(experts, progress=False, **options)
    assert same(before, state(base))


def test_bad_experts(tmp_path) -> None:
    base = llama()
    one, two = whole_experts(base, 2)
    base.save_pretrained(tmp_path / "base")
    loaded = type(base).from_pretrained(tmp_path / "base")
    cases = [
        (base, {}, "experts=.*at least one"),
        (base, "me/model", "experts='me/model': expected a dict"),
        (base, [one], "1 given, but method 'model_stock' merges at least 2"),
        (base, {"base": one, "honest": two}, "experts='base': expected a role other than base and merged"),
        (base, {"helpful": one, "helpfulness": two}, "role 'helpfulness' is given twice"),
        (base, [one, one], "one live model is given twice"),
        (base, [one, base], r"experts\['expert_2'\].*this is the base"),
        (loaded, [one, str(tmp_path / "base")], "this is the base"),
        (base, [one, str(tmp_path / "base")], r"experts\['expert_2'\]=.*this is the base"),  # not loaded from it
        (base, [one, copy.deepcopy(base)], r"experts\['expert_2'\].*this is the base"),
        (base, [one, 3], r"experts\['expert_2'\]=3: expected a Hub id"),
        (base, [one, str(tmp_path / "nothing")], "nothing"),
        (base, [one, nn.Linear(2, 2)], "of the base missing"),
    ]
    before = state(base)
    for model, experts, message in cases:
        with pytest.raises(RequestError, match=message):
            model.merge_3h(experts, method="model_stock", progress=False)
    assert same(before, state(base))


def test_models_that_do_not_fit_are_listed_wholly() -> None:
    base = llama()
    with pytest.raises(RequestError, match=r"(?s)vocabulary of 60 tokens, 10 more than the base's 50"):
        base.merge_3h([tiny.llama(vocabulary=60), *whole_experts(base, 1)], method="linear", progress=False)
    with pytest.raises(RequestError) as caught:
        base.merge_3h([tiny.llama(intermediate_size=32)], method="linear", progress=False)
    assert len(re.findall(r"\n  - ", str(caught.value))) == 6  # three matrices in each of two layers


def test_what_is_wrong_with_each_expert_is_told_at_once(tmp_path) -> None:
    base = llama()
    tiny.llama(intermediate_size=32).save_pretrained(tmp_path / "wide")
    experts = {
        "helpful": tiny.llama(vocabulary=60),
        "honest": str(tmp_path / "wide"),
        "harmless": whole_experts(base, 1)[0],
        "other": str(tmp_path / "nothing"),
    }
    with pytest.raises(RequestError) as caught:
        base.merge_3h(experts, method="linear", progress=False)
    text = str(caught.value)
    assert "vocabulary of 60 tokens" in text
    assert len(re.findall(r"honesty .* has shape \[", text)) == 6
    assert "nothing" in text
    assert "harmless" not in text
    with pytest.raises(SourceError, match=r"(?s)experts\['expert_1'\]='.*/x': no such folder.*/y': no such folder"):
        base.merge_3h([str(tmp_path / "x"), str(tmp_path / "y")], method="linear", progress=False)


def test_what_is_wrong_with_each_adapter_is_told_at_once(tmp_path) -> None:
    model = three_adapters(llama())
    three_adapters(llama(intermediate_size=32)).save_pretrained(tmp_path, selected_adapters=list(ROLES[:2]))
    folders = [str(tmp_path / role) for role in ROLES[:2]]
    with pytest.raises(RequestError, match=rf"(?s)'nobody': expected the name of.*/{ROLES[0]}.*/{ROLES[1]}"):
        model.merge_3h([*folders, "nobody"], method="linear", progress=False)


def test_an_adapter_beside_a_tie_is_refused_with_the_remedy() -> None:
    base = llama(tied=True)
    adapter = peft_model(base, {"one": {"target_modules": ["lm_head"]}})
    with pytest.raises(RequestError, match="tie_word_embeddings=False"):
        base.merge_3h([adapter], method="task_arithmetic", progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1e39, 1, 1]}, "weights=.*finite"),
        ({"scale": float("inf")}, "scale=inf"),
        ({"dtype": "float16", "scale": 1e7}, r"the merged '.*' has entries up to .* do not fit into torch\.float16"),
    ],
)
def test_results_that_are_not_finite_are_refused(options: dict, message: str) -> None:
    base = llama()
    before = state(base)
    with pytest.raises(RequestError, match=message):
        base.merge_3h(whole_experts(base), method="task_arithmetic", progress=False, **options)
    assert same(before, state(base))


@pytest.mark.parametrize("kind", ["models", "adapters"])
def test_a_base_that_is_not_finite_is_blamed_itself(kind: str) -> None:
    base = llama()
    experts = whole_experts(base) if kind == "models" else [peft_model(base, {"one": LORA})]
    with torch.no_grad():
        base.model.layers[0].self_attn.q_proj.weight[1, 2] = float("nan")
    with pytest.raises(RequestError, match=r"^LlamaForCausalLM: tensor 'model\.layers\.0\.self_attn\.q_proj\.weight'"):
        base.merge_3h(experts, method="task_arithmetic", progress=False)


def test_adapters_of_different_bases_are_refused(tmp_path) -> None:
    base = llama()
    experts = [peft_model(base, {"one": LORA}, seed=seed) for seed in range(2)]
    for expert, name in zip(experts, ("me/base", "me/other"), strict=True):
        expert.peft_config["one"].base_model_name_or_path = name
    with pytest.raises(RequestError, match="record different bases"):
        base.merge_3h(experts, progress=False)


def test_warnings_as_errors_leave_the_model_as_it_was() -> None:
    base = llama()
    before = state(base)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MergeWarning, match="times as large"):
            base.merge_3h(whole_experts(base), method="task_arithmetic", progress=False)
    assert same(before, state(base))
    assert not hasattr(base, "merge_report")


def test_one_folder_given_twice_is_found(tmp_path, monkeypatch) -> None:
    base = llama()
    base.save_pretrained(tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    for twice in (["one", "./one"], [tmp_path / "one", tmp_path / "one"], ["one/", str(tmp_path / "one")]):
        with pytest.raises(RequestError, match="given twice"):
            base.merge_3h(twice, method="linear", progress=False)


def test_misspelt_arguments_are_offered() -> None:
    base = llama()
    experts = whole_experts(base, 2)
    for option, meant in (("devcie", "device"), ("weight", "weights"), ("seeds", "seed")):
        with pytest.raises(RequestError, match=f"did you mean '{meant}'"):
            base.merge_3h(experts, progress=False, **{option: 1})
    with pytest.raises(RequestError, match="did you mean 'ties'"):
        base.merge_3h(experts, method="TIES", progress=False)


def test_a_base_folder_that_is_not_whole_is_refused(tmp_path) -> None:
    base = llama()
    experts = whole_experts(base, 2)
    base.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"'model\.norm\.weight' of the base is missing"):
        merge(str(tmp_path), experts, method="linear", progress=False)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match=r"model\.safetensors"):
        merge(str(tmp_path), experts, method="linear", progress=False)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(SourceError, match="safetensors"):
        merge(str(tmp_path), experts, method="linear", progress=False)


def test_a_model_that_was_trained_since_is_not_its_old_folder(tmp_path) -> None:
    llama().save_pretrained(tmp_path / "base")
    trained = type(llama()).from_pretrained(tmp_path / "base")
    with torch.no_grad():
        trained.model.norm.weight += 0.5
    trained.merge_3h([tmp_path / "base"], method="linear", progress=False)
    assert torch.allclose(trained.model.norm.weight, llama().model.norm.weight)
