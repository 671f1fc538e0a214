"""What cannot be merged is refused, all of it at once, and nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_merge3h import RequestError, merge_recipe
from hf_merge3h.engine.recipes import plan_recipe
from hf_merge3h.engine.steps import make_stream_plan
from hf_merge3h.recipes.read import read_recipe
from tests.engine.models import peft_model
from tests.engine.recipes import family, recipe, run, save


def test_adapters_of_other_bases_are_told(tmp_path: Path) -> None:
    base, _ = family(tmp_path, 0)
    adapters = {}
    for seed, name in enumerate(("e1", "e2", "e3")):
        peft = peft_model(base, {"one": {"r": 2}}, seed=seed)
        peft.peft_config["one"].base_model_name_or_path = "me/other" if seed else "me/base"
        peft.save_pretrained(tmp_path / f"a{name}", selected_adapters=["one"], save_embedding_layers=False)
        adapters[name] = (str(tmp_path / f"a{name}" / "one"),)
    manifest = run(recipe(tmp_path, "ties", adapters=adapters), tmp_path / "out")
    assert any("record different bases" in each and "me/other" in each for each in manifest.content["warnings"])


def test_a_filter_that_is_in_no_name_is_told(tmp_path: Path) -> None:
    family(tmp_path, 1)
    density = [{"filter": "mlp", "value": 0.5}, {"filter": "self_atn", "value": 0.3}, {"filter": "*", "value": 0.2}]
    content = {
        "merge_method": "ties",
        "base_model": str(tmp_path / "base"),
        "models": [{"model": str(tmp_path / "e1"), "parameters": {"weight": 1.0, "density": density}}],
    }
    told = [each for each in make_stream_plan(read_recipe(content), device="cpu").recipe.warnings if "filter" in each]
    assert told == ["filter 'self_atn' occurs in the name of no tensor: its value is used nowhere"]


def test_a_method_with_nothing_to_merge_is_told(tmp_path: Path) -> None:
    family(tmp_path, 1)
    base = str(tmp_path / "base")
    made = read_recipe({"merge_method": "ties", "base_model": base, "models": [{"model": base}]})
    (told,) = plan_recipe(made, device="cpu").recipe.warnings
    assert told.startswith("ties has no model to merge beside the base")


def test_a_model_without_a_config_is_told(tmp_path: Path) -> None:
    family(tmp_path, 1)
    (tmp_path / "base" / "config.json").unlink()
    (told,) = plan_recipe(recipe(tmp_path, "ties", ["e1"]), device="cpu").recipe.warnings
    assert told.startswith("base has no config.json, so the output gets none")


def test_all_problems_at_once(tmp_path: Path) -> None:
    family(tmp_path)
    path = tmp_path / "e1" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path)
    path = tmp_path / "e2" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"] = torch.zeros(53, 16)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(2, 2)
    save_file(tensors, path)
    with pytest.raises(RequestError) as raised:
        make_stream_plan(recipe(tmp_path, "ties"), device="cpu")
    text = str(raised.value)
    assert "e1: 'model.norm.weight' is missing" in text
    assert "a vocabulary of 53 tokens, base has 50" in text
    assert "shape [2, 2], base has [24, 16]" in text


def test_models_that_cannot_be_read_are_listed(tmp_path: Path) -> None:
    family(tmp_path)
    config = json.loads((tmp_path / "e1" / "config.json").read_text())
    (tmp_path / "e1" / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    (tmp_path / "e2" / "model.safetensors").write_bytes(b"short")
    shutil.rmtree(tmp_path / "e3")
    with pytest.raises(RequestError) as raised:
        make_stream_plan(recipe(tmp_path, "ties"), device="cpu")
    assert str(raised.value).count("\n  - ") == 3
    (tmp_path / "r.yaml").write_text(f"merge_method: ties\nbase_model: ./no\nmodels: [{tmp_path / 'base'}]\n")
    named = read_recipe(tmp_path / "r.yaml")
    with pytest.raises(RequestError, match=r"r\.yaml:2: base_model='\./no': no such folder"):
        make_stream_plan(named, device="cpu")
    base = tmp_path / "base"
    (tmp_path / "r.yaml").write_text(f"merge_method: linear\nmodels:\n- {base}\n- model: {base}\n  adapters: [./no]\n")
    named = read_recipe(tmp_path / "r.yaml")
    with pytest.raises(RequestError, match=r"r\.yaml:5: models\[1\]\.adapters\[0\]='\./no': no such folder"):
        make_stream_plan(named, device="cpu")
    family(tmp_path)
    (tmp_path / "e1" / "config.json").write_text(json.dumps({**config, "model_type": "mistral"}))
    with pytest.raises(RequestError, match="a model of type 'mistral', base is a 'llama'"):
        make_stream_plan(recipe(tmp_path, "ties"), device="cpu")


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    _, experts = family(tmp_path)
    with torch.no_grad():
        experts[1].model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")
    save(experts[1], tmp_path / "e2")
    for method in ("linear", "ties", "sce"):
        with pytest.raises(RequestError, match=r"layers.1.mlp.up_proj.*not finite.*\[3, 5\]"):
            run(recipe(tmp_path, method), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["linear", "ties", "slerp"])
def test_a_broken_base_is_named(method: str, tmp_path: Path) -> None:
    family(tmp_path, 2)
    path = tmp_path / "base" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("inf")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(RequestError, match=r"base.*layers.1.mlp.up_proj.*not finite"):
        run(recipe(tmp_path, method, ("e1", "e2")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["task_arithmetic", "tsv_merge", "ties"])
def test_what_does_not_fit_into_the_dtype_is_refused(method: str, tmp_path: Path) -> None:
    family(tmp_path)
    made = recipe(tmp_path, method, parameters={"scale": 1e9}, out_dtype="float16")
    with pytest.raises(RequestError, match=r"the merged '.*' has entries up to .* which do not fit into torch.float16"):
        run(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_inputs_are_no_output(tiny_family: Any) -> None:
    folder, _, _ = tiny_family
    for out in (folder / "base", folder):
        with pytest.raises(RequestError, match="out="):
            run(recipe(folder, "linear"), out, overwrite=True)


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_broken_files_beside_the_weights_are_found_by_the_plan(name: str, tmp_path: Path) -> None:
    family(tmp_path)
    (tmp_path / "base" / name).write_text("{")
    with pytest.raises(RequestError, match=f"{name} is no JSON"):
        plan_recipe(recipe(tmp_path, "ties"), device="cpu")
    (tmp_path / "base" / name).write_text("[]")
    with pytest.raises(RequestError, match=f"{name} holds no JSON object"):
        plan_recipe(recipe(tmp_path, "ties"), device="cpu")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": 1.5}, "seed=1.5: expected an integer of at most 63 bits"),
        ({"seed": "x"}, "seed='x': expected an integer of at most 63 bits"),
        ({"seed": 1 << 63}, "seed=9223372036854775808: expected an integer of at most 63 bits"),
        ({"out": None}, "out=None: expected the path of a folder"),
        ({"out": 5}, "out=5: expected the path of a folder"),
    ],
)
def test_arguments_that_no_command_line_would_let_through(given: Any, message: str, tiny_family: Any) -> None:
    folder, _, _ = tiny_family
    with pytest.raises(RequestError, match=message):
        merge_recipe(recipe(folder, "dare_ties"), **{"out": folder / "out", "progress": False, **given})
    assert not (folder / "out").exists()
