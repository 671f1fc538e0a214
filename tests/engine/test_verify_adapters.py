"""Adapters that were merged: by a recipe, from disk into a live model, and from memory alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import hf_merge3h
from hf_merge3h import verify
from hf_merge3h.manifest import FILE
from hf_merge3h.models.weights.headers import ADAPTER_WEIGHTS
from tests.engine.models import ROLES, llama, peft_model, quiet, three_adapters
from tests.engine.recipes import save


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and three adapters of it."""
    folder = tmp_path_factory.mktemp("parents")
    base = llama()
    save(base, folder / "base")
    for seed, role in enumerate(ROLES):
        peft_model(base, {role: {"r": 2 + seed}}, seed=seed).save_pretrained(folder, selected_adapters=[role])
    return folder


def _by_recipe(parents: Path, out: Path) -> Path:
    adapters = {role: str(parents / role) for role in ROLES}
    recipe = {"merge_method": "dare_ties", "base_model": str(parents / "base"), "out": "adapter", "seed": 3}
    hf_merge3h.merge_recipe({**recipe, "adapters": adapters}, out, progress=False)
    return out


def _live(parents: Path, out: Path) -> Path:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(parents / "base")
    with quiet():
        model = PeftModel.from_pretrained(base, parents / ROLES[0], adapter_name=ROLES[0])
        model.merge_3h(
            {role: str(parents / role) for role in ROLES}, method="r_tsvm", adapter_name="default", progress=False
        )
        model.save_pretrained(out, selected_adapters=["default"])
    return out


def _loaded(parents: Path, out: Path, train: bool = False) -> Path:
    """Adapters that PEFT had loaded are named by what it called them, and found where they were loaded from."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(parents / "base")
    with quiet(), torch.no_grad():
        model = PeftModel.from_pretrained(base, parents / ROLES[0], adapter_name=ROLES[0])
        for role in ROLES[1:]:
            model.load_adapter(parents / role, adapter_name=role)
        if train:
            next(each for name, each in model.named_parameters() if f"lora_B.{ROLES[1]}" in name).mul_(1.01)
        model.merge_3h(list(ROLES), method="r_tsvm", adapter_name="default", progress=False)
        model.save_pretrained(out, selected_adapters=["default"])
    return out


def test_an_adapter_that_was_trained_on_after_loading_is_no_false_alarm(parents: Path, tmp_path: Path) -> None:
    found = verify(_loaded(parents, tmp_path / "out", train=True))
    assert (found.outcome, found.exit_code) == ("hashes match", 0), str(found)
    assert any(f"a parent is not at hand: {ROLES[1]}" in note for note in found.notes)


@pytest.mark.parametrize("make", [_by_recipe, _live, _loaded])
def test_merged_adapters_are_what_they_say_or_are_found_out(make: Any, parents: Path, tmp_path: Path) -> None:
    own = tmp_path / "parents"
    shutil.copytree(parents, own)
    out = make(own, tmp_path / "out")
    found = verify(out)
    assert (found.outcome, found.findings, found.differences) == ("bit-exact", (), ()), str(found)
    assert found.tensors > 10

    weights = out / ADAPTER_WEIGHTS
    kept = weights.read_bytes()
    tensors = load_file(weights)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + 1e-3
    save_file(tensors, weights)
    found = verify(out)
    assert found.exit_code == 1
    assert found.findings[0].startswith(f"{ADAPTER_WEIGHTS}: was changed")
    assert [each.name for each in found.differences] == [name]
    weights.write_bytes(kept)

    manifest = (out / FILE).read_text()
    content = json.loads(manifest)
    given = content["recipe"]["given"]["adapters"]
    first = given[0] if isinstance(given, list) else given
    if isinstance(first.get("parameters"), dict):
        first["parameters"]["weight"] = 0.125
    else:
        given[ROLES[0]] = {"adapter": str(own / ROLES[0]), "parameters": {"weight": 0.125}}
    (out / FILE).write_text(json.dumps(content))
    found = verify(out)
    assert found.exit_code == 1, str(found)
    assert "the recipe was edited: weights is" in found.findings[0]
    assert found.differences
    (out / FILE).write_text(manifest)

    parent = own / ROLES[1] / ADAPTER_WEIGHTS
    save_file({name: tensor * 2 for name, tensor in load_file(parent).items()}, parent)
    found = verify(out)
    assert found.exit_code == 1
    assert "is not what was merged" in found.findings[0]
    shutil.rmtree(own / ROLES[1])
    found = verify(out)
    assert (found.outcome, found.exit_code, found.tensors) == ("hashes match", 0, 0)
    assert "nothing was merged again" in str(found)


def test_adapters_that_were_in_memory_only(tmp_path: Path) -> None:
    model = three_adapters(llama())
    with quiet():
        model.merge_3h(list(ROLES), method="linear", adapter_name="balanced", progress=False)
        model.save_pretrained(tmp_path, selected_adapters=["balanced"])
    found = verify(tmp_path / "balanced")
    assert (found.outcome, found.exit_code) == ("hashes match", 0)
    assert "not at hand" in str(found)
