"""Reading adapters: each delta is merge_and_unload minus base, whether the adapter is loaded or lies in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn

from hf_merge3h.linalg.low_rank import LowRank
from hf_merge3h.models.adapters.folder import load_adapter
from hf_merge3h.models.adapters.read import AdapterDeltas, read_adapter

from . import zoo

ATTENTION = ["q_proj", "v_proj"]
ADAPTERS = {
    "scaling": (zoo.llama, LoraConfig(r=3, lora_alpha=7, target_modules=ATTENTION)),
    "rslora": (zoo.llama, LoraConfig(r=4, lora_alpha=7, use_rslora=True, target_modules=ATTENTION)),
    "patterns": (
        zoo.llama,
        LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=[*ATTENTION, "down_proj"],
            rank_pattern={"layers.1.self_attn.q_proj": 2, "down_proj": 6},
            alpha_pattern={"v_proj": 3, "down_proj": 1},
        ),
    ),
    "rslora and patterns": (
        zoo.llama,
        LoraConfig(r=4, use_rslora=True, target_modules=ATTENTION, rank_pattern={"q_proj": 1}),
    ),
    "all linear": (zoo.llama, LoraConfig(r=2, target_modules="all-linear")),
    "one layer": (zoo.llama, LoraConfig(r=2, target_modules=ATTENTION, layers_to_transform=[1])),
    "dora": (zoo.llama, LoraConfig(r=3, use_dora=True, target_modules=ATTENTION)),
    "dora embedding": (zoo.llama, LoraConfig(r=3, use_dora=True, target_modules=["embed_tokens", "q_proj"])),
    "embedding": (zoo.llama, LoraConfig(r=3, lora_alpha=5, target_modules=["embed_tokens", "lm_head"])),
    "saved head": (
        zoo.llama,
        LoraConfig(r=2, target_modules=ATTENTION, modules_to_save=["lm_head", "input_layernorm"]),
    ),
    "tokens": (zoo.llama, LoraConfig(r=2, target_modules=ATTENTION, trainable_token_indices=[3, 7])),
    "many tokens": (zoo.llama, LoraConfig(r=2, target_modules=ATTENTION, trainable_token_indices=list(range(9)))),
    "tied tokens": (
        lambda: zoo.llama(tied=True),
        LoraConfig(r=2, target_modules=ATTENTION, trainable_token_indices=[3, 7]),
    ),
    "mica": (zoo.llama, LoraConfig(r=2, target_modules=ATTENTION, init_lora_weights="mica")),
    "Conv1D": (zoo.gpt2, LoraConfig(r=3, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)),
    "Conv1D dora": (zoo.gpt2, LoraConfig(r=3, use_dora=True, target_modules=["c_attn"], fan_in_fan_out=True)),
    "Conv1D bias": (zoo.gpt2, LoraConfig(r=3, lora_bias=True, target_modules=["c_attn"], fan_in_fan_out=True)),
    "t5": (zoo.t5, LoraConfig(r=3, target_modules=["q", "wi"], task_type="SEQ_2_SEQ_LM")),
    "vit": (zoo.vit, LoraConfig(r=3, lora_bias=True, target_modules=["q_proj", "projection"])),
    "vit head": (zoo.vit, LoraConfig(r=3, target_modules=["q_proj"], modules_to_save=["classifier"])),
    "classifier": (zoo.classifier, LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS")),
    "mixtral experts": (
        zoo.mixtral,
        LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"]),
    ),
    "bare matrix": (zoo.mixtral, LoraConfig(r=2, target_modules=[], target_parameters=["gate.weight"])),
    "convolutions": (
        zoo.convolutions,
        LoraConfig(r=2, lora_alpha=5, target_modules=["line", "point", "plane", "space"]),
    ),
    "convolutions dora": (
        zoo.convolutions,
        LoraConfig(r=2, use_dora=True, target_modules=["line", "point", "plane", "space"]),
    ),
    "zero base": (zoo.linears, LoraConfig(r=2, target_modules=["1", "11"])),
    "loha": (zoo.llama, peft.LoHaConfig(r=2, target_modules=ATTENTION)),
    "loha conv": (zoo.convolutions, peft.LoHaConfig(r=2, target_modules=["plane"], use_effective_conv2d=True)),
    "lokr": (zoo.llama, peft.LoKrConfig(r=2, target_modules=ATTENTION, decompose_both=True)),
    "adalora": (zoo.llama, peft.AdaLoraConfig(init_r=4, total_step=10, target_modules=ATTENTION)),
    "vera": (zoo.llama, peft.VeraConfig(r=4, target_modules=["q_proj"])),
    "ia3": (
        zoo.gpt2,
        peft.IA3Config(target_modules=["c_attn", "c_fc"], feedforward_modules=["c_fc"], fan_in_fan_out=True),
    ),
    "oft": (zoo.llama, peft.OFTConfig(oft_block_size=4, target_modules=ATTENTION)),
    "boft": (zoo.llama, peft.BOFTConfig(boft_block_size=4, target_modules=ATTENTION)),
    "hra": (zoo.llama, peft.HRAConfig(r=2, target_modules=ATTENTION)),
    "ln_tuning": (zoo.llama, peft.LNTuningConfig(target_modules=["input_layernorm"])),
    "randlora": (zoo.llama, peft.RandLoraConfig(r=2, target_modules=["q_proj"])),
    "gralora": (zoo.llama, peft.GraloraConfig(r=4, gralora_k=2, target_modules=ATTENTION)),
    "fourierft": (zoo.llama, peft.FourierFTConfig(n_frequency=6, target_modules=ATTENTION)),
    "waveft": (zoo.llama, peft.WaveFTConfig(n_frequency=6, target_modules=ATTENTION)),
    "c3a": (zoo.llama, peft.C3AConfig(block_size=8, target_modules=ATTENTION)),
    "hira": (zoo.llama, peft.HiraConfig(r=2, target_modules=ATTENTION)),
    "miss": (zoo.llama, peft.MissConfig(r=2, target_modules=["q_proj"])),
    "delora": (zoo.llama, peft.DeloraConfig(r=2, target_modules=ATTENTION)),
    "trainable tokens": (zoo.llama, peft.TrainableTokensConfig(token_indices=[1, 2], target_modules=["embed_tokens"])),
}
CASES = pytest.mark.parametrize(("make", "config"), ADAPTERS.values(), ids=list(ADAPTERS))


def check_exact(deltas: AdapterDeltas, expected: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> None:
    specs = deltas.specs()
    assert set(specs) <= set(expected)
    for name, true in expected.items():
        asked = []

        def base(name: str = name, asked: list[str] = asked) -> torch.Tensor:
            asked.append(name)
            return before[name].float()

        delta = deltas.delta(name, base)
        assert bool(asked) == deltas.needs_base(name)
        if delta is None:
            assert not true.any(), name
            continue
        assert (delta.rank if isinstance(delta, LowRank) else None) == specs[name].rank
        dense = zoo.dense(delta)
        assert dense.dtype == torch.float32
        assert dense.shape == true.shape == specs[name].shape
        torch.testing.assert_close(dense.double(), true, rtol=0, atol=2e-6 * float(true.abs().max()), msg=name)


@CASES
def test_loaded_is_exact(make: Callable[[], nn.Module], config: Any) -> None:
    base = make()
    model = zoo.adapted(base, config)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    check_exact(read_adapter(model, "default", "mine"), zoo.oracle(base, model), zoo.clean(base))
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


@CASES
def test_folder_equals_loaded(make: Callable[[], nn.Module], config: Any, tmp_path: Path) -> None:
    base = make()
    model = zoo.adapted(base, config)
    folder = zoo.save(model, tmp_path)
    random = torch.get_rng_state()
    from_folder = load_adapter(folder, base, "mine")
    assert torch.equal(random, torch.get_rng_state())
    assert from_folder.specs() == read_adapter(model, "default").specs()
    check_exact(from_folder, zoo.oracle(base, model), zoo.clean(base))


@pytest.mark.parametrize(("make", "config"), ADAPTERS.values(), ids=list(ADAPTERS))
def test_rank_of_bounds_the_rank(make: Callable[[], nn.Module], config: Any) -> None:
    base = make()
    source = read_adapter(zoo.adapted(base, config), "default")
    stacks = source.stack_names()
    assert source.specs() is source.specs()  # asked for once a tensor: made once
    assert stacks == {name for name in source.specs() if ".experts." in name}
    for name, part in source.parts.items():
        delta = zoo.dense(source.delta(name, lambda name=name: zoo.clean(base)[name])).double()
        bound = source.rank_of(name)
        if bound is None:
            assert name in source.whole_names() or part.kind in ("bias", "merged")
            continue
        matrices = delta if name in stacks else delta.flatten(1)
        assert torch.linalg.matrix_rank(matrices, rtol=1e-6).max() <= bound <= min(matrices.shape[-2:])
        assert part.spec.rank in (None, bound)
        if part.kind != "tokens":
            dense = part.kind == "merged" or (delta.ndim > 2 and name not in stacks)
            assert part.spec.rank == (None if dense else bound)
    assert source.rank_of("nowhere") == 0


def test_merged_weights_give_the_forward_pass() -> None:
    """The oracle itself: PEFT's merging and its forward agree on the adapters that we call exact."""
    for make, config in ADAPTERS.values():
        base = make()
        model = zoo.adapted(base, config)
        expected = zoo.outputs(model)
        with torch.no_grad():
            deltas = read_adapter(model, "default")
            for name, parameter in base.named_parameters():
                parameter.copy_(deltas.weight(name, lambda parameter=parameter: parameter.clone()))
        torch.testing.assert_close(zoo.outputs(base), expected, rtol=2e-4, atol=2e-4, msg=str(config))


def test_adapter_of_transformers_4_experts(tmp_path: Path) -> None:
    """Mixtral's experts were single layers; transformers 5 fuses them, and PEFT turns old adapters into stacks."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for expert in range(3):
        for layer, (out, into) in {"w1": (24, 16), "w2": (16, 24), "w3": (24, 16)}.items():
            key = f"base_model.model.model.layers.0.block_sparse_moe.experts.{expert}.{layer}.lora"
            state[f"{key}_A.weight"] = torch.randn(2, into, generator=generator)
            state[f"{key}_B.weight"] = torch.randn(out, 2, generator=generator)
    save_file(state, tmp_path / "adapter_model.safetensors")
    LoraConfig(r=2, lora_alpha=4, target_modules=["w1", "w2", "w3"]).save_pretrained(tmp_path)
    deltas = load_adapter(tmp_path, zoo.mixtral(), "old")

    def true(expert: int, layer: str) -> torch.Tensor:
        key = f"base_model.model.model.layers.0.block_sparse_moe.experts.{expert}.{layer}.lora"
        return 2 * state[f"{key}_B.weight"] @ state[f"{key}_A.weight"]

    stacks = {
        "gate_up_proj": torch.stack([torch.cat([true(expert, "w1"), true(expert, "w3")]) for expert in range(3)]),
        "down_proj": torch.stack([true(expert, "w2") for expert in range(3)]),
    }
    assert set(deltas.specs()) == {f"model.layers.0.mlp.experts.{name}" for name in stacks}
    for name, stack in stacks.items():
        delta = deltas.delta(f"model.layers.0.mlp.experts.{name}", lambda stack=stack: stack)
        assert isinstance(delta, LowRank)
        torch.testing.assert_close(delta.dense(), stack, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("embeddings", [True, False])
def test_one_side_of_a_tie_is_told_alike_for_loaded_and_saved(tmp_path, target: str, embeddings: bool) -> None:
    """PEFT's file may hold the embedding itself; loading it must not make the tie be forgotten."""
    base = zoo.llama(tied=True)
    model = zoo.adapted(base, LoraConfig(r=2, target_modules=[target]))
    name = next(iter(model.peft_config))
    with zoo.quiet():
        model.save_pretrained(tmp_path, save_embedding_layers=embeddings)
    folder = tmp_path if (tmp_path / "adapter_config.json").exists() else tmp_path / name
    loaded, saved = read_adapter(model, name), load_adapter(folder, zoo.llama(tied=True), "saved")
    assert loaded.partial.keys() == saved.partial.keys() != set()
