"""`out: adapter`: adapters merged by a recipe are what `peft_model.merge_3h` makes, and PEFT loads them."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from typer.testing import CliRunner

import hf_merge3h
from hf_merge3h import RequestError
from hf_merge3h.cli import app
from hf_merge3h.engine.saved import as_recipe
from hf_merge3h.manifest import load_manifest, schema
from tests.engine.models import ROLES, llama, peft_model, quiet
from tests.engine.recipes import save
from tests.test_manifest import conforms


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("adapters")
    base = llama()
    save(base, folder / "base")
    for seed, role in enumerate(ROLES):
        model = peft_model(base, {role: {"r": 2 + seed}}, seed=seed)
        model.save_pretrained(folder, selected_adapters=[role])
    (folder / "honesty" / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder, base


def text(folder: Path, method: str, more: str = "") -> str:
    adapters = "\n".join(f"  {role}: {folder / role}" for role in ROLES)
    return f"merge_method: {method}\nbase_model: {folder / 'base'}\nout: adapter\nadapters:\n{adapters}\n{more}"


def loaded(folder: Path, base: Any) -> Any:
    with quiet():
        return PeftModel.from_pretrained(copy.deepcopy(base), folder)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_ties", "linear", "r_tsvm", "knots_ties", "iso_c"])
def test_it_is_what_peft_models_get(method: str, place: Any, tmp_path: Path) -> None:
    folder, base = place
    (tmp_path / "r.yaml").write_text(text(folder, method, "seed: 5\n"))
    manifest = hf_merge3h.merge_recipe(tmp_path / "r.yaml", tmp_path / "out", progress=False)
    live = loaded(folder / ROLES[0], base)
    resolved = manifest.content["recipe"]["resolved"][0]
    with quiet():
        live.merge_3h(
            {role: str(folder / role) for role in ROLES}, method=method, adapter_name="balanced", seed=5,
            weights=dict(zip(resolved["roles"], resolved["weights"], strict=True)), progress=False,
            **resolved["parameters"],
        )  # fmt: skip
    live.save_pretrained(tmp_path / "live", selected_adapters=["balanced"])
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "live/balanced"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ids = torch.arange(8).unsqueeze(0)
    live.set_adapter("balanced")
    assert torch.allclose(loaded(tmp_path / "out", base)(ids).logits, live(ids).logits, atol=1e-5)


def test_its_folder_and_manifest(place: Any, tmp_path: Path) -> None:
    folder, _ = place
    (tmp_path / "r.yaml").write_text(text(folder, "tsv_merge"))
    done = CliRunner().invoke(app, ["merge", str(tmp_path / "r.yaml"), str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0
    content = load_manifest(tmp_path / "out").content
    assert json.loads(done.stdout) == content
    assert conforms(content, schema(), schema())
    assert (content["kind"], content["made_by"], content["recipe"]["label"]) == ("adapter", "recipe", "r.yaml")
    assert content["recipe"]["given"]["out"] == "adapter"
    honest = next(each for each in content["models"] if each["role"] == "honesty")
    assert honest["adapters"][0]["card"]["license"] == "mit"
    assert honest["adapters"][0]["hashes"]["adapter_model.safetensors"]
    assert content["models"][0]["source"] == str(folder / "base")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors", "merge3h.json",
    }  # fmt: skip
    assert not any("base_layer" in name for name in load_file(tmp_path / "out" / "adapter_model.safetensors"))
    bare = hf_merge3h.merge_recipe(tmp_path / "r.yaml", tmp_path / "bare", diagnostics=False, progress=False).content
    assert bare["diagnostics"] == bare["output"]["hashes"] == "not recorded"
    assert conforms(bare, schema(), schema())


def test_a_live_merge_can_be_repeated_by_its_manifest(place: Any, tmp_path: Path) -> None:
    folder, base = place
    live = loaded(folder / ROLES[0], base)
    with quiet():
        live.merge_3h({role: str(folder / role) for role in ROLES}, method="dare_ties", seed=3, progress=False)
    live.save_pretrained(tmp_path / "live", selected_adapters=["merged"])
    made = as_recipe(live.merge_report)
    made["base_model"] = str(folder / "base")
    hf_merge3h.merge_recipe(made, tmp_path / "again", progress=False)
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("again", "live/merged"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_base_may_have_no_weights_here(place: Any, tmp_path: Path) -> None:
    folder, _ = place
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_bytes((folder / "base" / "config.json").read_bytes())
    made = text(folder, "task_arithmetic").replace(str(folder / "base"), str(tmp_path / "base"))
    (tmp_path / "r.yaml").write_text(made)
    assert hf_merge3h.merge_recipe(tmp_path / "r.yaml", tmp_path / "out", progress=False).content["output"]["tensors"]


def test_who_may_read_the_config_may_read_the_weights(place: Any, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text(place[0], "ties"))
    hf_merge3h.merge_recipe(tmp_path / "r.yaml", tmp_path / "out", progress=False)
    config, weights = ((tmp_path / "out" / f"adapter_{name}").stat() for name in ("config.json", "model.safetensors"))
    assert config.st_mode == weights.st_mode


@pytest.mark.parametrize("out", ["out: adapter", "dtype: float32"])
def test_a_broken_adapter_is_told_at_its_line(out: str, place: Any, tmp_path: Path) -> None:
    shutil.copytree(place[0] / "honesty", tmp_path / "honesty")
    os.truncate(tmp_path / "honesty" / "adapter_model.safetensors", 100)
    made = text(place[0], "ties").replace(str(place[0] / "honesty"), str(tmp_path / "honesty"))
    (tmp_path / "r.yaml").write_text(made.replace("out: adapter", out))
    with pytest.raises(RequestError, match=r"r\.yaml:6: adapter '.*honesty.*corrupted or truncated"):
        hf_merge3h.merge_recipe(tmp_path / "r.yaml", tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (("adapters:", "parameters: {density: [0.1, 0.9]}\nadapters:"), "a gradient or a filter"),
        (("merge_method: ties", "merge_method: slerp\nparameters: {t: 0.5}"), "takes|needs|cannot"),
        (("merge_method: ties", "merge_method: linear\nparameters: {normalize: false}"), "needs whole weights"),
        (("out: adapter", "out: adapter\nchat_template: chatml"), "neither tokenizer nor chat template"),
        (
            ("/honesty", "/base"),
            r"r\.yaml:6: adapters\.honesty='.*/base': expected an adapter, and there is no adapter_c",
        ),
        (("base\nout", "bose\nout"), r"r\.yaml:2: base_model='.*/bose': no such folder"),
    ],
)
def test_what_no_adapter_can_hold(change: tuple[str, str], error: str, place: Any, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text(place[0], "ties").replace(*change))
    with pytest.raises(RequestError, match=error):
        hf_merge3h.merge_recipe(tmp_path / "r.yaml", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["adapter", "weights"])
def test_what_is_read_is_not_replaced(kind: str, place: Any, tmp_path: Path) -> None:
    folder, _ = place
    hf_merge3h.merge_recipe(yaml.safe_load(text(folder, "ties")), tmp_path / "merged", progress=False)
    again = {
        "merge_method": "linear",
        "base_model": str(folder / "base"),
        "adapters": [str(tmp_path / "merged"), str(folder / "honesty")],
        "out": kind,
    }
    for out in (tmp_path / "merged", *([folder / "base"] if kind == "adapter" else [])):
        before = sorted(path.name for path in out.iterdir())
        with pytest.raises(RequestError, match=r"out='.*': is or holds the input .*; give another folder"):
            hf_merge3h.merge_recipe(again, out, overwrite=True, progress=False)
        assert sorted(path.name for path in out.iterdir()) == before


def test_whole_models_are_no_adapters(place: Any, tmp_path: Path) -> None:
    folder, base = place
    save(base, tmp_path / "whole")
    made = f"merge_method: ties\nbase_model: {folder / 'base'}\nout: adapter\nmodels: [{tmp_path / 'whole'}]"
    (tmp_path / "r.yaml").write_text(made)
    with pytest.raises(RequestError, match="expected one adapter"):
        hf_merge3h.merge_recipe(tmp_path / "r.yaml", tmp_path / "out", progress=False)


def test_plan(place: Any, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text(place[0], "r_tsvm"))
    shown = CliRunner().invoke(app, ["plan", str(tmp_path / "r.yaml")])
    assert (shown.exit_code, "14 tensors (adapter)" in shown.stdout) == (0, True), shown.stdout
    facts = json.loads(CliRunner().invoke(app, ["plan", str(tmp_path / "r.yaml"), "--json"]).stdout)
    assert facts["bytes_read"] == sum((place[0] / role / "adapter_model.safetensors").stat().st_size for role in ROLES)


@pytest.mark.parametrize("dtype", ["", "dtype: bfloat16\n"])
def test_a_plan_says_how_large_the_result_will_be(place: Any, tmp_path: Path, dtype: str) -> None:
    folder, _ = place
    (tmp_path / "r.yaml").write_text(text(folder, "task_arithmetic", dtype))
    told = hf_merge3h.plan_facts(hf_merge3h.plan_recipe(hf_merge3h.read_recipe(tmp_path / "r.yaml")))["bytes_written"]
    hf_merge3h.merge_recipe(tmp_path / "r.yaml", tmp_path / "out", progress=False)
    written = load_file(tmp_path / "out" / "adapter_model.safetensors").values()
    assert told == sum(tensor.numel() * tensor.element_size() for tensor in written)


def facts(folder: Path) -> dict[str, Any]:
    """What a manifest says, less the time."""
    content = load_manifest(folder).content
    return {key: value for key, value in content.items() if key not in ("created", "date", "seconds")}


def test_a_plan_is_carried_out_without_reading_again_and_as_often_as_wanted(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_merge3h.engine import adapter_recipe
    from hf_merge3h.models import open as opening

    folder, _ = place
    (tmp_path / "r.yaml").write_text(text(folder, "r_tsvm", "seed: 5\n"))
    hf_merge3h.merge_recipe(tmp_path / "r.yaml", tmp_path / "plain", progress=False)
    plan = hf_merge3h.plan_recipe(hf_merge3h.read_recipe(tmp_path / "r.yaml"))
    read = []
    for module in (adapter_recipe, opening):
        real = module.load_adapter
        monkeypatch.setattr(module, "load_adapter", lambda *a, real=real: read.append(a[0].name) or real(*a))
    for name in ("one", "two"):
        hf_merge3h.merge_recipe(plan, tmp_path / name, progress=False)
        assert facts(tmp_path / name) == facts(tmp_path / "plain")
        weights = [(tmp_path / one / "adapter_model.safetensors").read_bytes() for one in (name, "plain")]
        assert weights[0] == weights[1]
    assert read == []

    # another recipe reads what is new to it
    (tmp_path / "s.yaml").write_text(text(folder, "ties", "seed: 5\n"))
    again = hf_merge3h.plan_recipe(hf_merge3h.read_recipe(tmp_path / "s.yaml"), reuse=plan)
    assert read == []
    hf_merge3h.merge_recipe(again, tmp_path / "reused", progress=False)
    hf_merge3h.merge_recipe(tmp_path / "s.yaml", tmp_path / "new", progress=False)
    assert facts(tmp_path / "reused") == facts(tmp_path / "new")


def test_what_changed_since_is_read_again(place: Any, tmp_path: Path) -> None:
    import shutil

    folder, _ = place
    mine = tmp_path / "mine"
    shutil.copytree(folder, mine)
    (tmp_path / "r.yaml").write_text(text(mine, "linear"))
    recipe = hf_merge3h.read_recipe(tmp_path / "r.yaml")
    plan = hf_merge3h.plan_recipe(recipe)
    shutil.copyfile(folder / "honesty" / "adapter_model.safetensors", mine / "honesty" / "adapter_model.safetensors")
    again = hf_merge3h.plan_recipe(recipe, reuse=plan)
    same = [one is other for one, other in zip(plan.adapters, again.adapters, strict=True)]
    assert same == [source != str(mine / "honesty") for source in plan.sources.values()]
    (mine / "base" / "config.json").write_text((mine / "base" / "config.json").read_text() + "\n")
    third = hf_merge3h.plan_recipe(recipe, reuse=again)
    assert not any(one is other for one, other in zip(again.adapters, third.adapters, strict=True))


@pytest.mark.parametrize("given", [{"device": "cpu"}, {"dtype": "float32"}, {"seed": 1}])
def test_a_plan_was_made_for_its_settings(place: Any, tmp_path: Path, given: dict[str, Any]) -> None:
    (tmp_path / "r.yaml").write_text(text(place[0], "linear"))
    plan = hf_merge3h.plan_recipe(hf_merge3h.read_recipe(tmp_path / "r.yaml"))
    with pytest.raises(RequestError, match="nothing beside a plan"):
        hf_merge3h.merge_recipe(plan, tmp_path / "out", **given)
    with pytest.raises(RequestError, match="or what plan_recipe gave"):
        hf_merge3h.merge_recipe(7, tmp_path / "out")
    assert not (tmp_path / "out").exists()
