"""Adapters, whole models, and both together: a streamed merge has the bits of `model.merge_3h`."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_merge3h
from hf_merge3h.engine.order import name_of, order_of
from tests.engine.models import llama, peft_model, quiet, whole_experts
from tests.engine.recipes import save, weights

#: Three experts each. The base's name comes before the whole models', and theirs before the adapters': an order by
#: `base+adapter` is another one than by `adapter`.
MIXES = {
    "adapters": ("p", "q", "r"),
    "mixed": ("p", "q", "m"),
    "mostly whole": ("n", "m", "q"),
    "whole": ("m", "n", "o"),
}
METHODS = ("linear", "task_arithmetic", "ties", "dare_ties", "sce", "consensus_ta", "tsv_merge")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The base "b", the whole models "m", "n", "o" and the adapters "p", "q", "r" of one tiny family."""
    root = tmp_path_factory.mktemp("mixed")
    base = llama(hidden_size=32, intermediate_size=48)
    save(base, root / "b")
    for name, expert in zip("mno", whole_experts(base), strict=True):
        save(expert, root / name)
    for seed, name in enumerate("pqr"):
        adapter = peft_model(base, {"default": {"target_modules": ["q_proj", "v_proj", "down_proj"]}}, seed=seed)
        adapter.save_pretrained(root / name)
    return root, base


def as_models(root: Path, names: tuple[str, ...]) -> list[str]:
    return [f"{root / 'b'}+{root / name}" if name in "pqr" else str(root / name) for name in names]


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("method", METHODS)
def test_streamed_is_merged_in_memory(method: str, mix: str, folder: tuple[Path, Any], tmp_path: Path) -> None:
    root, base = folder
    live: Any = copy.deepcopy(base)
    with quiet():
        live.merge_3h([str(root / name) for name in MIXES[mix]], method=method, progress=False)
    told = {
        "merge_method": method,
        "base_model": str(root / "b"),
        "models": [{"model": model, "parameters": {"weight": 1.0}} for model in as_models(root, MIXES[mix])],
        "parameters": {
            name: value
            for name, value in live.merge_report.parameters.items()
            if value is not None and not isinstance(value, tuple)
        },
    }
    if method == "linear":  # in a recipe an average of whole weights, of which the base would be one
        del told["base_model"]
    with quiet():
        hf_merge3h.merge_recipe(told, tmp_path / "out", device="cpu", progress=False)
    state = live.state_dict()
    for name, tensor in weights(tmp_path / "out").items():
        near = {"rtol": 0.0, "atol": 1e-6 if method == "tsv_merge" else 0.0}
        assert torch.allclose(tensor, state[name], **near), name


def test_weights_that_do_not_add_up_to_1_count_where_no_adapter_changes_anything(
    folder: tuple[Path, Any], tmp_path: Path
) -> None:
    root, base = folder
    live: Any = copy.deepcopy(base)
    with quiet():
        live.merge_3h([str(root / name) for name in "pq"], method="linear", weights=[1.0, 1.0], normalize=False)
    before = base.state_dict()["model.norm.weight"]
    assert torch.equal(live.state_dict()["model.norm.weight"], 2 * before)
    told = {
        "merge_method": "linear",
        "models": [{"model": model, "parameters": {"weight": 1.0}} for model in as_models(root, ("p", "q"))],
        "parameters": {"normalize": False},
    }
    with quiet():
        hf_merge3h.merge_recipe(told, tmp_path / "out", device="cpu", progress=False)
    for name, tensor in weights(tmp_path / "out").items():
        assert torch.equal(tensor, live.state_dict()[name]), name


def test_what_experts_are_sorted_by() -> None:
    unnamed = ["expert_1", "expert_2", "expert_3"]
    assert order_of(unnamed, ["z/1", "a/2", "m"]) == [1, 2, 0]
    assert order_of(unnamed, [name_of("base", ["z/1"]), name_of("base", ["a/2"]), name_of("m", [])]) == [1, 2, 0]
    assert order_of(unnamed[:2], [name_of("b", ["lora"]), name_of("a", ["lora"])]) == [1, 0]
    assert order_of(unnamed[:2], ["me/a2", "me/a"]) == order_of(unnamed[:2], ["me/a2@0f", "me/a@0f"]) == [1, 0]


def test_how_a_folder_is_spelt_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b@1", "z"):
        (tmp_path / name).mkdir()
    (tmp_path / "0-link").symlink_to("z")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    unnamed = ["expert_1", "expert_2", "expert_3"]
    spellings = [
        ["a", "b@1", "z"],
        ["./a", "b@1/", str(tmp_path / "z")],
        [str(tmp_path / "a"), "~/b@1", "0-link"],
        [tmp_path / "z" / ".." / "a", "b@1", "./z"],
    ]
    for each in spellings:
        assert order_of(unnamed, each) == [0, 1, 2], each
        plain = [os.fspath(name) for name in each]
        assert order_of(unnamed, [name_of(name, []) for name in plain]) == [0, 1, 2]
        assert order_of(unnamed, [name_of("base", [name]) for name in plain]) == [0, 1, 2]


def test_a_model_that_is_merged_with_itself_under_another_name_is_a_warning(folder: tuple[Path, Any]) -> None:
    root, _ = folder

    def warned(method: str, *models: str) -> list[str]:
        told: dict[str, Any] = {"merge_method": method, "base_model": str(root / "b"), "models": list(models)}
        if method == "passthrough":
            ranges = ([0, 1], [1, 2])
            told["slices"] = [
                {"sources": [{"model": model, "layer_range": each}]}
                for model, each in zip(told.pop("models"), ranges, strict=True)
            ]
        return list(hf_merge3h.plan_recipe(hf_merge3h.read_recipe(told), device="cpu").recipe.warnings)

    m, n, again, base = (f"{root}/{name}" for name in ("m", "n", "./m", "b/"))
    assert warned("ties", m, n) == warned("passthrough", m, again) == []
    assert warned("ties", m, f"{m}+{root}/p") == []
    (twice,) = warned("ties", m, n, again)
    assert twice.startswith(f"{m} and {again} are one model, which counts twice; name it in one way")
    (still,) = warned("ties", m, base)
    assert still.startswith(
        f"{base} and {root}/b are one model, which counts as an expert that changed nothing; name it"
    )
