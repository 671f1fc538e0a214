"""Adapters that have no exact delta, and files that are none, are refused in words that say what and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import nn

from hf_merge3h.errors import RequestError, SourceError
from hf_merge3h.models.adapters.folder import load_adapter, meta_copy
from hf_merge3h.models.adapters.read import base_names, read_adapter
from hf_merge3h.models.adapters.tree import PeftTree
from hf_merge3h.models.weights.quantised import is_quantised

from . import zoo

ATTENTION = ["q_proj", "v_proj"]
PLAIN = LoraConfig(r=2, target_modules=ATTENTION, task_type="CAUSAL_LM")


@pytest.mark.parametrize(
    ("make", "config", "words"),
    [
        (zoo.llama, peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"), ["PROMPT_TUNING", "input"]),
        (zoo.llama, peft.ShiraConfig(r=2, target_modules=ATTENTION), ["SHIRA", "merge_and_unload"]),
        (zoo.llama, LoraConfig(target_modules=ATTENTION, bias="all"), ["bias='all'", "overwritten", "folder"]),
        (zoo.llama, LoraConfig(target_modules=ATTENTION, init_lora_weights="pissa"), ["pissa", "save_pretrained"]),
        (zoo.llama, LoraConfig(target_modules=ATTENTION, init_lora_weights="olora"), ["olora", "own weights"]),
        (
            zoo.llama,
            LoraConfig(target_modules=ATTENTION, task_type="CAUSAL_LM", alora_invocation_tokens=[1, 2]),
            ["aLoRA", "invocation"],
        ),
        (zoo.llama, LoraConfig(target_modules=["q_proj"], lora_bias=True), ["lora_bias", "q_proj", "no bias"]),
        (
            lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)),
            LoraConfig(target_modules=["0"]),
            ["groups"],
        ),
        (
            lambda: nn.Sequential(nn.ModuleDict({"a": nn.MultiheadAttention(8, 2)})),
            LoraConfig(target_modules=["0.a"]),
            ["MultiheadAttention", "twice"],
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
            LoraConfig(target_modules=["0"], modules_to_save=["1"]),
            ["buffer", "running_mean"],
        ),
    ],
)
def test_no_delta(make: Callable[[], nn.Module], config: Any, words: list[str]) -> None:
    model = zoo.adapted(make(), config)
    for name, buffer in model.named_buffers():
        if "modules_to_save" in name and buffer.is_floating_point():
            buffer.add_(1.0)
    with pytest.raises(RequestError) as caught:
        read_adapter(model, "default", "mine")
    for word in ("mine", *words):
        assert word in str(caught.value)


def test_not_an_adapter() -> None:
    base = zoo.llama()
    with pytest.raises(RequestError, match=r"peft_model='LlamaForCausalLM'.*PeftModel"):
        read_adapter(base, "default")
    model = zoo.adapted(base, PLAIN)
    with pytest.raises(RequestError, match=r"adapter='defalt'.*did you mean 'default'"):
        read_adapter(model, "defalt")
    model.merge_adapter()
    with pytest.raises(RequestError, match=r"merged into.*unmerge_adapter\(\)"):
        read_adapter(model, "default")
    model.unmerge_adapter()
    assert read_adapter(model, "default").rank == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value: float) -> None:
    model = zoo.adapted(zoo.llama(), PLAIN)
    with torch.no_grad():
        model.get_submodule("base_model.model.model.layers.1.self_attn.v_proj.lora_B.default").weight[0, 0] = value
    with pytest.raises(RequestError, match=r"'mine'.*not finite:\n  - model.layers.1.self_attn.v_proj.lora_B.default"):
        read_adapter(model, "default", "mine")


def test_scale_and_activity_are_as_peft_holds_them() -> None:
    base = zoo.llama()
    model = zoo.adapted(base, PLAIN, LoraConfig(r=3, target_modules=["q_proj"]))
    name = "model.layers.0.self_attn.q_proj.weight"
    before = zoo.dense(read_adapter(model, "second").delta(name, _unread))
    model.base_model.model.model.layers[0].self_attn.q_proj.set_scale("second", 3.0)
    model.base_model.disable_adapter_layers()
    torch.testing.assert_close(zoo.dense(read_adapter(model, "second").delta(name, _unread)), 3 * before)
    assert model.active_adapter == "default"


def test_names_are_the_clean_models() -> None:
    for make in (zoo.llama, zoo.gpt2, zoo.t5, zoo.vit, zoo.mixtral, zoo.convolutions, lambda: zoo.llama(tied=True)):
        base = make()
        linear = "all-linear" if hasattr(base, "config") else ["line", "table"]
        config = LoraConfig(target_modules=linear, modules_to_save=["norm", "ln_f", "layernorm"])
        with zoo.quiet():
            model = zoo.adapted(base, config).get_base_model()
        for seen in (model, base, meta_copy(base)):
            tree = PeftTree.of(seen)
            names = {tree.canonical(name) for name in tree.parameters}
            assert names == {name for name, _ in base.named_parameters()}


def test_config_facts() -> None:
    model = zoo.adapted(zoo.llama(), PLAIN, LoraConfig(r=5, target_modules=["q_proj"]))
    model.peft_config["default"].base_model_name_or_path = "owner/base"
    first, second = read_adapter(model, "default"), read_adapter(model, "second")
    assert (first.base_name, first.rank) == ("owner/base", 2)
    assert base_names([first, second]) == {"default": "owner/base"}


@pytest.mark.parametrize("config", [{"use_dora": True}, {"modules_to_save": ["q_proj"]}, {}])
def test_quantised_base(config: dict[str, Any]) -> None:
    """Plain LoRA asks nothing of a packed weight; what needs the base's values says so."""
    targets = ["v_proj"] if "modules_to_save" in config else ["q_proj"]
    model = zoo.adapted(zoo.llama(), LoraConfig(r=2, target_modules=targets, **config))
    for _, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.out_features == module.in_features == 16:
            module.weight.quant_state = "packed"  # as bitsandbytes marks its 4-bit weights
            assert is_quantised(module)
    if not config:
        assert read_adapter(model, "default").specs()["model.layers.0.self_attn.q_proj.weight"].shape == (16, 16)
        return
    with pytest.raises(RequestError, match=r"(?s)needs the base's values.*q_proj' is quantised"):
        read_adapter(model, "default")


def test_one_side_of_a_tie() -> None:
    base = zoo.llama(tied=True)
    one = read_adapter(zoo.adapted(base, LoraConfig(r=2, target_modules=["embed_tokens"])), "default", "mine")
    assert "'mine' changes 'model.embed_tokens.weight'" in one.partial["model.embed_tokens.weight"]
    assert "'lm_head.weight'" in one.partial["model.embed_tokens.weight"]
    config = LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"], ensure_weight_tying=True)
    both = read_adapter(zoo.adapted(base, config), "default")
    assert not both.partial
    assert both.covers == {"model.embed_tokens.weight": ("model.embed_tokens.weight", "lm_head.weight")}
    assert "lm_head.weight" not in both.specs()


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return zoo.save(zoo.adapted(zoo.llama(), PLAIN), tmp_path / "adapter")


def _edit(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load_file(folder / "adapter_model.safetensors")
    change(state)
    save_file(state, folder / "adapter_model.safetensors")


def _cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
BROKEN: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no config": (lambda f: (f / "adapter_config.json").unlink(), ["no adapter_config.json"]),
    "no json": (lambda f: (f / "adapter_config.json").write_text("{"), ["adapter_config.json is no JSON"]),
    "deep json": (lambda f: (f / "adapter_config.json").write_text("[" * 100_000), ["is no JSON"]),
    "a list": (lambda f: (f / "adapter_config.json").write_text("[]"), ["expected a JSON object"]),
    "unknown kind": (lambda f: _edit(f, peft_type="LORRA"), ["peft_type='LORRA'", "did you mean 'LORA'"]),
    "kind is a list": (lambda f: _edit(f, peft_type=["LORA"]), ["peft_type=['LORA']"]),
    "hostile rank": (lambda f: _edit(f, r="__import__('os')"), ["does not fit this base"]),
    "hostile pattern": (lambda f: _edit(f, target_modules="("), ["does not fit this base"]),
    "no module": (lambda f: _edit(f, target_modules=["nowhere"]), ["does not fit this base", "nowhere"]),
    "more modules": (lambda f: _edit(f, target_modules=["q_proj", "v_proj", "o_proj"]), ["lacks", "o_proj.lora_A"]),
    "fewer modules": (lambda f: _edit(f, target_modules=["q_proj"]), ["v_proj.lora_A.weight", "no place"]),
    "other rank": (lambda f: _edit(f, r=3), ["size mismatch", "q_proj.lora_A.weight"]),
    "missing saved": (lambda f: _edit(f, modules_to_save=["lm_head"]), ["lm_head.weight"]),
    "missing key": (lambda f: _weights(f, lambda state: state.pop(KEY)), ["lacks", "q_proj.lora_A"]),
    "unexpected key": (lambda f: _weights(f, lambda state: state.update(odd=torch.ones(1))), ["'odd'", "no place"]),
    "truncated": (_cut, ["adapter_model.safetensors is corrupted or truncated"]),
    "garbage": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\xff" * 64), ["corrupted"]),
    "empty": (lambda f: (f / "adapter_model.safetensors").write_bytes(b""), ["corrupted"]),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), ["no adapter_model.safetensors"]),
    "pickle only": (
        lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
        ["adapter_model.bin", "pickle", "save_file(torch.load('adapter_model.bin', weights_only=True)"],
    ),
}


@pytest.mark.parametrize(("spoil", "words"), BROKEN.values(), ids=list(BROKEN))
def test_bad_folder(folder: Path, spoil: Callable[[Path], Any], words: list[str]) -> None:
    spoil(folder)
    base = zoo.llama()
    with pytest.raises(SourceError) as caught:
        load_adapter(folder, base, "mine")
    for word in ("'mine'", *words):
        assert word in str(caught.value)
    assert not any("lora" in name for name, _ in base.named_parameters())


def test_folder_of_a_kind_without_delta(folder: Path) -> None:
    _edit(folder, init_lora_weights="pissa_niter_4")
    with pytest.raises(RequestError, match="pissa"):
        load_adapter(folder, zoo.llama(), "mine")


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_from_a_folder_are_exact(tmp_path: Path, bias: str) -> None:
    base = zoo.gpt2()
    model = zoo.adapted(base, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, bias=bias))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and name.endswith("bias"):
                parameter.add_(0.5)
    deltas = load_adapter(zoo.save(model, tmp_path), base, "mine")
    true = zoo.oracle(base, model)
    changed = [name for name, delta in true.items() if name.endswith("bias") and delta.any()]
    assert len(changed) == (2 if bias == "lora_only" else 13)
    for name in changed:
        got = deltas.delta(name, lambda name=name: zoo.clean(base)[name])
        torch.testing.assert_close(got.double(), true[name], rtol=0, atol=1e-6)


def test_saved_embeddings_that_differ_count(tmp_path: Path) -> None:
    """save_pretrained stores a targeted embedding beside its factors; on another base that is a change too."""
    base = zoo.llama()
    model = zoo.adapted(base, LoraConfig(r=2, target_modules=["embed_tokens"]))
    folder = zoo.save(model, tmp_path)
    name = "model.embed_tokens.weight"
    with torch.no_grad():
        base.get_input_embeddings().weight[0] += 1.0
    for skeleton in (base, meta_copy(base)):
        deltas = load_adapter(folder, skeleton, "mine")
        assert deltas.needs_base(name)
        true = zoo.dense(read_adapter(model, "default").delta(name, _unread)).clone()
        true[0] -= 1.0
        torch.testing.assert_close(deltas.delta(name, lambda: base.get_input_embeddings().weight.detach()), true)


def test_meta_copy_is_weightless_and_tied(folder: Path) -> None:
    base = zoo.llama(tied=True)
    twin = meta_copy(base)
    assert all(parameter.is_meta for parameter in twin.parameters())
    assert twin.lm_head.weight is twin.model.embed_tokens.weight
    assert not any(parameter.is_meta for parameter in base.parameters())
    shutil.copytree(folder, folder.parent / "again")
    first, second = (load_adapter(path, twin, "mine") for path in (folder, folder.parent / "again"))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(zoo.dense(first.delta(name, _unread)), zoo.dense(second.delta(name, _unread)))


def _unread() -> torch.Tensor:
    raise AssertionError("the base was asked for")
