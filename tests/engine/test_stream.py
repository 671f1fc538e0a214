"""Whole checkpoints, tensor by tensor: the same as in memory, whatever the files look like."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hf_merge3h import RequestError, get_method
from hf_merge3h.engine import walk
from hf_merge3h.linalg import blocks
from hf_merge3h.recipes.types import ModelReference, Recipe, TensorJob
from tests.engine.models import METHODS, ROLES, expert_count, peft_model, quiet, whole_experts
from tests.engine.recipes import family, recipe, run, save, weights
from tests.models import tiny


@pytest.mark.parametrize("method", METHODS)
def test_streamed_is_merged_in_memory(method: str, tiny_family: Any, tmp_path: Path, monkeypatch: Any) -> None:
    folder, base, experts = tiny_family
    count = expert_count(method)
    live = copy.deepcopy(base)
    monkeypatch.setattr(blocks, "BLOCK", 100)  # many parts, as large tensors have
    monkeypatch.setattr(walk, "PIECE", 300)
    with quiet():
        live.merge_3h(dict(zip(ROLES, experts[:count], strict=False)), method=method, progress=False)
    run(recipe(folder, method, ("e1", "e2", "e3")[:count]), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    for name, tensor in live.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


def test_whole_checkpoints_need_neither_transformers_nor_peft(tiny_family: Any, tmp_path: Path) -> None:
    """Their imports take longer than a small merge."""
    folder, *_ = tiny_family
    told = {
        "merge_method": "ties",
        "base_model": str(folder / "base"),
        "models": [{"model": str(folder / "e1")}, {"model": str(folder / "e2")}],
    }
    code = f"""
import sys, hf_merge3h
hf_merge3h.merge_recipe({told!r}, {str(tmp_path / "out")!r}, diagnostics=False, progress=False)
print([name for name in ("transformers", "peft", "accelerate", "matplotlib", "scipy") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
    assert (tmp_path / "out" / "merge3h.json").exists()


@pytest.mark.parametrize("method", ["ties", "linear", "dare_ties", "tsv_merge"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(method: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base, experts = family(tmp_path, dtype=dtype)
    live = copy.deepcopy(base)
    with quiet():
        live.merge_3h(dict(zip(ROLES, experts, strict=True)), method=method, progress=False)
    run(recipe(tmp_path, method), tmp_path / "out")
    found = weights(tmp_path / "out")
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    assert all(torch.equal(found[name], t) for name, t in live.state_dict().items() if name in found)
    wide = run(recipe(tmp_path, method, out_dtype="float32"), tmp_path / "wide")
    assert wide.content["output"]["dtypes"] == ["float32"]
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("method", ["linear", "ties", "sce"])
def test_nothing_depends_on_the_files(method: str, tiny_family: Any, tmp_path: Path) -> None:
    folder, base, experts = tiny_family
    for name, model in [("base", base), *((f"e{n}", each) for n, each in enumerate(experts, start=1))]:
        save(model, tmp_path / name, max_shard_size="3KB")
    one = run(recipe(folder, method), tmp_path / "one")
    two = run(recipe(tmp_path, method), tmp_path / "two")
    assert one.outputs == two.outputs
    assert one.content["recipe"]["resolved"] == two.content["recipe"]["resolved"]
    many = run(recipe(folder, method), tmp_path / "many", max_shard_size="2KB", diagnostics=False)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert many.outputs == "not recorded"
    first, last = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "many", dtype="auto")


def test_adapters_are_applied_on_the_fly(tmp_path: Path) -> None:
    base, _ = family(tmp_path, 0)
    for seed, name in enumerate(("e1", "e2", "e3")):
        peft = peft_model(base, {"one": {"r": 2}}, seed=seed)
        peft.save_pretrained(tmp_path / f"a{name}", selected_adapters=["one"])
    adapters = {name: (str(tmp_path / f"a{name}" / "one"),) for name in ("e1", "e2", "e3")}
    for method in ("task_arithmetic", "r_tsvm", "ties", "linear", "slerp"):
        live = copy.deepcopy(base)
        names = ("e1", "e2", "e3")[: expert_count(method)]
        sources = dict(zip(ROLES, [adapters[name][0] for name in names], strict=False))
        with quiet():
            live.merge_3h(sources, method=method, progress=False)
        run(recipe(tmp_path, method, names, adapters=adapters), tmp_path / method)
        for name, tensor in weights(tmp_path / method).items():
            assert torch.allclose(tensor, live.state_dict()[name], atol=1e-6), (method, name)


def test_a_copied_head_is_dropped(tmp_path: Path) -> None:
    family(tmp_path, 3)
    path = tmp_path / "e2" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path, {"format": "pt"})
    run(recipe(tmp_path, "ties"), tmp_path / "out")
    assert "lm_head.weight" not in weights(tmp_path / "out")
    tensors["lm_head.weight"] += 1
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(RequestError, match=r"^recipe: these models(.|\n)*e2: 'lm_head.weight' and .* differ"):
        run(recipe(tmp_path, "ties"), tmp_path / "out", overwrite=True)


def test_a_copied_head_goes_by_what_the_class_ties(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = tiny.gpt2()
    experts = whole_experts(base)
    for name, model in [("base", base), *((f"e{n}", each) for n, each in enumerate(experts, start=1))]:
        save(model, tmp_path / name)
    path = tmp_path / "e1" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["transformer.wte.weight"].clone()}, path, {"format": "pt"})
    run(recipe(tmp_path, "ties"), tmp_path / "out")
    assert "lm_head.weight" not in weights(tmp_path / "out")


def test_layers_are_stacked_by_passthrough(tiny_family: Any, tmp_path: Path) -> None:
    folder, base, _ = tiny_family

    def jobs(shapes: Any, counts: Any) -> tuple[TensorJob, ...]:
        made = []
        for name in shapes[0]:
            for layer in range(3 if ".layers.0." in name else 0):
                source = name.replace(".0.", f".{min(layer, 1)}.")
                made.append((name.replace(".0.", f".{layer}."), source))
            if ".layers." not in name:
                made.append((name, name))
        return tuple(
            TensorJob(new, "passthrough", ((0, old),), None, (1.0,), {"scale": 0.5 if "norm" in old else None})
            for new, old in made
        )

    made = Recipe((ModelReference(str(folder / "base")),), None, jobs, lambda counts: 3)
    run(made, tmp_path / "out")
    found, state = weights(tmp_path / "out"), base.state_dict()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.config.num_hidden_layers == 3
    assert torch.equal(found["model.layers.2.mlp.up_proj.weight"], state["model.layers.1.mlp.up_proj.weight"])
    assert torch.equal(found["model.norm.weight"], state["model.norm.weight"] * 0.5)


def test_without_a_base(tiny_family: Any, tmp_path: Path) -> None:
    folder, _, experts = tiny_family
    run(recipe(folder, "linear", base=None), tmp_path / "out")
    run(recipe(folder, "multislerp", base=None), tmp_path / "sphere")
    for name, tensor in weights(tmp_path / "out").items():
        stack = torch.stack([expert.state_dict()[name] for expert in experts])
        assert torch.allclose(tensor, stack.mean(0), atol=1e-7)
        assert torch.allclose(weights(tmp_path / "sphere")[name], get_method("multislerp")(stack), atol=1e-6)
    with pytest.raises(RequestError, match="needs base_model"):
        run(recipe(folder, "ties", base=None), tmp_path / "none")


@pytest.mark.parametrize("method", ["linear", "ties", "tsv_merge", "slerp"])
def test_float64_is_added_in_float64(method: str, tmp_path: Path) -> None:
    count = expert_count(method)
    base, experts = family(tmp_path, count, dtype=torch.float64)
    live = copy.deepcopy(base)
    with quiet():
        live.merge_3h(dict(zip(ROLES, experts, strict=False)), method=method, progress=False)
    run(recipe(tmp_path, method, ("e1", "e2", "e3")[:count]), tmp_path / "out")
    found = weights(tmp_path / "out")
    assert {tensor.dtype for tensor in found.values()} == {torch.float64}
    assert all(torch.equal(found[name], t) for name, t in live.state_dict().items() if name in found)


@pytest.mark.parametrize("method", ["linear", "ties", "tsv_merge"])
def test_single_numbers_are_merged(method: str, tmp_path: Path) -> None:
    family(tmp_path)
    for number, name in enumerate(("base", "e1", "e2", "e3")):
        path = tmp_path / name / "model.safetensors"
        save_file({**load_file(path), "model.scale": torch.tensor(float(number))}, path, {"format": "pt"})
    run(recipe(tmp_path, method), tmp_path / "out")
    merged = weights(tmp_path / "out")["model.scale"]
    assert (merged.shape, float(merged)) == ((), pytest.approx(2.0))


@pytest.mark.parametrize("method", ["ties", "tsv_merge"])
def test_what_torch_is_set_to_changes_nothing(method: str, tiny_family: Any, tmp_path: Path) -> None:
    made = recipe(tiny_family[0], method)
    run(made, tmp_path / "plain")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            run(made, tmp_path / "odd")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    odd = weights(tmp_path / "odd")
    assert all(torch.equal(tensor, odd[name]) for name, tensor in weights(tmp_path / "plain").items())


@pytest.mark.parametrize("make", ["gpt2", "t5"])
def test_other_architectures(make: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = getattr(tiny, make)()
    experts = whole_experts(base)
    for name, model in [("base", base), *((f"e{n}", each) for n, each in enumerate(experts, start=1))]:
        save(model, tmp_path / name)
    live = copy.deepcopy(base)
    with quiet():
        live.merge_3h(dict(zip(ROLES, experts, strict=True)), method="ties", progress=False)
    run(recipe(tmp_path, "ties"), tmp_path / "out")
    loaded = type(base).from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in live.state_dict().items())
