"""On a GPU a merge is what it is on the CPU: run where there is one, as every other test is where there is none."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import hf_merge3h
from hf_merge3h import get_method
from tests.engine.models import METHODS, ROLES, expert_count, llama, quiet, state, three_adapters, whole_experts
from tests.engine.recipes import family, weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = "cuda"
CLOSE = 2e-5  # of the largest entry; sums are made in another order there


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two models' tensors, relative to the largest entry of each."""
    assert one.keys() == other.keys()
    return max(
        ((one[name].cpu().double() - tensor.cpu().double()).abs().max() / tensor.abs().max().clamp_min(1e-30)).item()
        for name, tensor in other.items()
    )


def merged(method: str, device: str) -> dict[str, torch.Tensor]:
    base = llama(hidden_size=48, intermediate_size=80)
    count = expert_count(method)
    experts = dict(zip(ROLES, whole_experts(base, count), strict=False))
    model = copy.deepcopy(base).to(device)
    with quiet():
        model.merge_3h(experts, method=method, seed=3, progress=False)
    assert {parameter.device.type for parameter in model.parameters()} == {device}
    assert model.merge_report.device.startswith(GPU)
    return state(model)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_the_cpus(method: str) -> None:
    base = llama(hidden_size=48, intermediate_size=80)
    count = expert_count(method)
    live = copy.deepcopy(base)
    with quiet():
        live.merge_3h(
            dict(zip(ROLES, whole_experts(base, count), strict=False)), method=method, seed=3, device="cpu",
            progress=False,
        )  # fmt: skip
    found = merged(method, GPU)
    assert apart(found, state(live)) < CLOSE
    again = merged(method, GPU)
    assert all(torch.equal(tensor, again[name]) for name, tensor in found.items())


def test_a_model_in_main_memory_is_merged_on_the_gpu_and_stays_where_it_was() -> None:
    assert apart(merged("r_tsvm", "cpu"), merged("r_tsvm", GPU)) < CLOSE


@pytest.mark.parametrize("method", ["r_tsvm", "tsv_merge", "iso_c", "knots_ties", "wudi", "ties", "linear"])
def test_adapters_are_merged_there(method: str) -> None:
    results = []
    for device in ("cpu", GPU):
        model = three_adapters(llama(hidden_size=48, intermediate_size=80)).to(device)
        with quiet():
            model.merge_3h(list(ROLES), method=method, adapter_name="all", device=device, progress=False)
        model.set_adapter("all")
        tokens = torch.arange(12, device=device).reshape(1, 12)
        results.append({"logits": model(tokens).logits.detach()})
    assert apart(results[1], results[0]) < 1e-4


@pytest.mark.parametrize("method", ["r_tsvm", "tsv_merge", "iso_c", "iso_cts"])
def test_large_matrices_are_decomposed_there(method: str) -> None:
    """From 512 singular values on, where float32 is tried first."""
    deltas = 1e-3 * torch.randn(3, 1, 600, 520, generator=torch.Generator().manual_seed(0))
    here, there = (get_method(method)(deltas[:, 0].to(device)) for device in ("cpu", GPU))
    here, there = (each.dense() if hasattr(each, "dense") else each for each in (here, there))
    assert there.device.type == GPU
    assert (there.cpu() - here).norm() < 1e-4 * here.norm()


@pytest.mark.parametrize("method", ["r_tsvm", "dare_ties", "ties"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_recipe_runs_there(method: str, dtype: torch.dtype, tmp_path: Path) -> None:
    family(tmp_path, dtype=dtype)
    told = {
        "merge_method": method, "base_model": str(tmp_path / "base"),
        "models": [{"model": str(tmp_path / name)} for name in ("e1", "e2", "e3")],
    }  # fmt: skip
    for device in ("cpu", GPU):
        hf_merge3h.merge_recipe(told, tmp_path / device, device=device, progress=False)
    found, wanted = weights(tmp_path / GPU), weights(tmp_path / "cpu")
    assert apart(found, wanted) < (CLOSE if dtype == torch.float32 else 2**-7)
    AutoModelForCausalLM.from_pretrained(tmp_path / GPU)
    verdict = hf_merge3h.verify(tmp_path / GPU, device=GPU)
    assert verdict.outcome == "bit-exact", str(verdict)
