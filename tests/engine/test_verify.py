"""Is a merge what it says? One altered copy for each way in which it may not be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import hf_merge3h
from hf_merge3h.engine.verify import verify
from hf_merge3h.errors import SourceError
from hf_merge3h.manifest import FILE
from tests.engine.models import ROLES, llama, quiet, whole_experts
from tests.engine.recipes import family
from tests.publishing.manifests import evaluation


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family of tiny models in bfloat16, and a merge of them in two shards."""
    folder = tmp_path_factory.mktemp("made")
    family(folder, dtype=torch.bfloat16)
    recipe = {
        "merge_method": "dare_ties", "base_model": str(folder / "base"), "seed": 5, "roles": list(ROLES),
        "models": [{"model": str(folder / f"e{n}"), "parameters": {"weight": 0.5, "density": 0.6}} for n in (1, 2, 3)],
    }  # fmt: skip
    hf_merge3h.merge_recipe(recipe, folder / "out", progress=False, max_shard_size="4KB")
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "out", tmp_path / "copy")
    return tmp_path / "copy"


def _edit(folder: Path, change: Any) -> None:
    path = folder / FILE
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_it_is_what_it_says(made: Path) -> None:
    found = verify(made / "out")
    assert (found.outcome, found.exit_code, found.findings, found.differences) == ("bit-exact", 0, (), ())
    assert found.tensors > 10
    assert found.files > 3
    assert "bit-exact" in str(found)


def test_hashes_alone(made: Path) -> None:
    found = verify(made / "out", again=False)
    assert (found.outcome, found.exit_code, found.tensors) == ("hashes match", 0, 0)
    assert "as asked" in str(found)


def test_card_and_manifest_may_change(copy: Path) -> None:
    (copy / "README.md").write_text("mine")
    _edit(copy, lambda content: content.update(evaluation=evaluation()))
    assert verify(copy, again=False).exit_code == 0


def test_a_changed_byte(copy: Path) -> None:
    shard = sorted(copy.glob("*.safetensors"))[-1]
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 0x40
    shard.write_bytes(raw)
    found = verify(copy)
    assert (found.outcome, found.exit_code) == ("differs", 1)
    assert f"{shard.name}: was changed" in found.findings[0]
    assert len(found.differences) == 1
    assert found.differences[0].name in load_file(shard)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_changed_side_file(copy: Path, name: str) -> None:
    (copy / name).write_text((copy / name).read_text().replace("{", "{ ", 1))
    found = verify(copy, again=False)
    assert found.exit_code == 1
    assert found.findings[0].startswith(f"{name}: was changed")


def test_a_swapped_shard(copy: Path) -> None:
    first, second, *_ = sorted(copy.glob("*.safetensors"))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    found = verify(copy, again=False)
    assert found.exit_code == 1
    assert f"{first.name}: holds what {second.name} should hold" in found.findings


def test_a_missing_and_a_strange_file(copy: Path) -> None:
    first = sorted(copy.glob("*.safetensors"))[0]
    first.rename(copy / "zzz.safetensors")
    found = verify(copy, again=False)
    assert f"{first.name}: is missing" in found.findings
    assert "zzz.safetensors: is not a file of this merge" in found.findings


def test_what_was_laid_beside_it_is_told(copy: Path) -> None:
    """A tokenizer that somebody added is no part of the merge; whoever loads the folder reads it all the same."""
    (copy / "tokenizer.json").write_text("{}")
    found = verify(copy, again=False)
    assert (found.outcome, found.exit_code) == ("hashes match", 0)
    assert any("no part of the merge" in note and "tokenizer.json" in note for note in found.notes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda recipe: recipe["models"][0]["parameters"].update(weight=0.75), "weights"),
        (lambda recipe: recipe["models"][0]["parameters"].update(density=0.9), "density"),
        (lambda recipe: recipe.update(merge_method="ties"), "the recipe was edited"),
    ],
)
def test_an_edited_recipe(copy: Path, change: Any, said: str) -> None:
    _edit(copy, lambda content: change(content["recipe"]["given"]))
    found = verify(copy)
    assert (found.outcome, found.exit_code) == ("differs", 1)
    assert said in found.findings[0]
    assert found.differences


def test_a_recipe_that_was_edited_in_every_place(copy: Path) -> None:
    text = (copy / FILE).read_text()
    (copy / FILE).write_text(text.replace('"density": 0.6', '"density": 0.9'))
    found = verify(copy)
    assert (found.outcome, found.exit_code) == ("differs", 1)
    assert "the recipe does not give these weights" in found.findings[0]


def test_a_recipe_that_cannot_be_carried_out_is_not_checked(copy: Path) -> None:
    _edit(copy, lambda content: content["recipe"].update(given={"merge_method": "nothing"}))
    found = verify(copy)
    assert (found.outcome, found.exit_code) == ("could not check", 2)
    assert "could not be merged again" in str(found)


def test_an_edited_seed(copy: Path) -> None:
    _edit(copy, lambda content: content.update(seed=6))
    assert verify(copy).exit_code == 1


def test_an_edited_recipe_file(copy: Path) -> None:
    content = json.loads((copy / FILE).read_text())["recipe"]["given"]
    path = copy / "recipe.yaml"
    path.write_text(f"# mine\n{json.dumps(content, indent=1)}\n")  # JSON is YAML, and says the same
    assert verify(copy, again=False).findings == ()
    path.write_text(json.dumps({**content, "seed": 6}))
    assert verify(copy, again=False).findings == ("recipe.yaml: is not the recipe that merge3h.json holds",)
    path.write_text("merge_method: [\n")
    assert verify(copy, again=False).findings[0].startswith("recipe.yaml")


def test_a_parent_that_moved(made: Path, copy: Path, tmp_path: Path) -> None:
    parent = tmp_path / "e1"
    shutil.copytree(made / "e1", parent)

    def elsewhere(content: Any) -> None:
        text = json.dumps(content).replace(str(made / "e1"), str(parent))
        content.clear()
        content.update(json.loads(text))

    _edit(copy, elsewhere)
    assert verify(copy).outcome == "bit-exact"
    weights = load_file(parent / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, parent / "model.safetensors")
    found = verify(copy)
    assert (found.outcome, found.exit_code) == ("differs", 1)
    assert "is not what was merged: model.safetensors" in found.findings[0]
    assert str(parent) in found.findings[0]
    shutil.rmtree(parent)
    found = verify(copy)
    assert (found.outcome, found.exit_code) == ("hashes match", 0)
    assert "a parent is not at hand" in str(found)


def test_within_tolerance_and_how_far(copy: Path) -> None:
    shard = sorted(copy.glob("*.safetensors"))[0]
    tensors = load_file(shard)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    flat = tensors[name].reshape(-1)
    flat[:1] *= 1.0078125  # one unit in bfloat16's last place
    save_file(tensors, shard, metadata={"format": "pt"})
    _edit(copy, lambda content: content["output"].update(hashes="not recorded"))
    found = verify(copy)
    assert [each.name for each in found.differences] == [name]
    limit = found.differences[0].relative
    assert 0 < limit < 0.01
    assert verify(copy, tolerance=2 * limit).outcome == "within tolerance"
    assert verify(copy, tolerance=limit / 2).exit_code == 1
    assert f"{name}: differs by" in str(found)


def test_nothing_to_check(copy: Path) -> None:
    def lost(content: Any) -> None:
        content["output"].update(hashes="not recorded")
        content["models"][0]["source"] = content["models"][0]["given"] = "/none"

    _edit(copy, lost)
    found = verify(copy)
    assert (found.outcome, found.exit_code) == ("could not check", 2)


def test_names_that_lead_out_of_the_folder(copy: Path) -> None:
    for name in ("../x", "/etc/passwd", "a/../../x", "..\\x"):
        _edit(copy, lambda content, name=name: content["output"]["hashes"].update({name: "0" * 64}))
        with pytest.raises(SourceError, match="leads out of its folder"):
            verify(copy, again=False)
        _edit(copy, lambda content, name=name: content["output"]["hashes"].pop(name))


def test_a_live_merge(made: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(made / "base", dtype="auto")
    with quiet():
        model.merge_3h(
            {role: str(made / f"e{n}") for n, role in enumerate(ROLES, start=1)}, method="ties", progress=False
        )
    model.save_pretrained(tmp_path / "live")
    found = verify(tmp_path / "live")
    assert (found.outcome, found.exit_code) == ("bit-exact", 0), str(found)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    model.save_pretrained(tmp_path / "trained")
    found = verify(tmp_path / "trained")
    assert (found.outcome, found.exit_code) == ("hashes match", 0)
    assert "changed after the merge" in str(found)


def test_experts_that_were_in_memory_only(tmp_path: Path) -> None:
    model = llama()
    with quiet():
        model.merge_3h(dict(zip(ROLES, whole_experts(model), strict=True)), method="ties", progress=False)
    model.save_pretrained(tmp_path)
    found = verify(tmp_path)
    assert found.outcome == "hashes match"
    assert "not at hand" in str(found)
