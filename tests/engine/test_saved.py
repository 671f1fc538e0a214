"""Merged live models that are saved: the manifest beside their weights, through copies and pickles."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import blake3
import pytest
import torch
from transformers import AutoModelForCausalLM

import hf_merge3h
from hf_merge3h.engine.saved import as_recipe
from hf_merge3h.errors import OutputError
from hf_merge3h.manifest import FILE, load_manifest, schema
from tests.engine.models import METHODS, ROLES, expert_count, llama, quiet, three_adapters, whole_experts
from tests.engine.recipes import family, save
from tests.test_manifest import conforms


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    family(folder)
    (folder / "e1" / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# One\n")
    return folder


def merged(place: Path, method: str = "ties", **options: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(place / "base", dtype="auto")
    count = expert_count(method)
    sources = {role: str(place / name) for role, name in zip(ROLES, ("e1", "e2", "e3")[:count], strict=False)}
    with quiet():
        return model.merge_3h(sources, method=method, progress=False, **options)


def content(folder: Path) -> Any:
    found = load_manifest(folder).content
    assert conforms(found, schema(), schema())
    for name, value in found["output"]["hashes"].items():
        assert value == blake3.blake3((folder / name).read_bytes()).hexdigest()
    return found


def test_a_merged_model_is_saved_with_its_manifest(place: Path, tmp_path: Path) -> None:
    model = merged(place, seed=3)
    model.save_pretrained(tmp_path / "out")
    found = content(tmp_path / "out")
    assert (found["kind"], found["made_by"], found["seed"]) == ("weights", "live", 3)
    assert found["method"] == {"name": "ties", "title": "TIES-Merging", "paper": "arXiv:2306.01708", "notice": ""}
    base, *experts = found["models"]
    assert (base["base"], base["live"], base["source"], base["card"]) == (True, True, str(place / "base"), None)
    assert [each["role"] for each in experts] == sorted(ROLES)
    one = next(each for each in experts if each["source"] == str(place / "e1"))
    assert (one["card"]["license"], one["card"]["language"]) == ("apache-2.0", ["en"])
    weights = place / "e1" / "model.safetensors"
    assert one["hashes"] == {weights.name: blake3.blake3(weights.read_bytes()).hexdigest()}
    assert found["output"]["changed"] is False
    assert set(found["output"]["hashes"]) == {"config.json", "generation_config.json", "model.safetensors"}
    assert found["diagnostics"][0]["total"]["norms"] == list(model.merge_report.total.norms)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("method", METHODS)
def test_the_call_as_a_recipe_says_the_same(method: str, place: Path, tmp_path: Path) -> None:
    model = merged(place, method)
    with quiet():
        hf_merge3h.merge_recipe(as_recipe(model.merge_report), tmp_path / "out", progress=False, diagnostics=False)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again[name], tensor), name


def test_copies_and_pickles_keep_it(place: Path, tmp_path: Path) -> None:
    model = merged(place)
    for number, each in enumerate((copy.deepcopy(model), pickle.loads(pickle.dumps(model)))):
        each.save_pretrained(tmp_path / str(number), max_shard_size="4KB")
        found = content(tmp_path / str(number))
        assert found["output"]["changed"] is False
        assert len(found["output"]["hashes"]) > 4


def test_what_was_changed_later_is_said(place: Path, tmp_path: Path) -> None:
    model = merged(place)
    given = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy.deepcopy(model).bfloat16().save_pretrained(tmp_path / "narrow")
    with torch.no_grad():
        model.model.norm.weight.mul_(1.01)
    model.save_pretrained(tmp_path / "trained")
    for name in ("narrow", "trained"):
        found = content(tmp_path / name)
        assert found["output"]["changed"] is True
        assert any("changed after the merge" in each for each in found["warnings"])
    model.save_pretrained(tmp_path / "given", state_dict=given)
    assert content(tmp_path / "given")["output"]["changed"] is False
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other" / FILE).exists()


def test_inputs_that_have_changed_have_no_hashes(tmp_path: Path) -> None:
    family(tmp_path)
    model = merged(tmp_path)
    (tmp_path / "e1" / "model.safetensors").unlink()
    save(whole_experts(llama())[0], tmp_path / "e2")
    model.save_pretrained(tmp_path / "out")
    hashes = {Path(each["source"]).name: each["hashes"] for each in content(tmp_path / "out")["models"]}
    assert hashes["e1"] == hashes["e2"] == hashes["base"] == "not recorded"
    assert set(hashes["e3"]) == {"model.safetensors"}


def test_other_models_are_saved_as_ever(place: Path, tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path / "plain")
    assert not (tmp_path / "plain" / FILE).exists()


def test_a_merged_adapter_has_it_in_its_own_folder(tmp_path: Path) -> None:
    model = three_adapters(llama())
    with quiet():
        model.merge_3h(list(ROLES), method="tsv_merge", adapter_name="one", progress=False)
        model.merge_3h(list(ROLES), method="ties", adapter_name="default", progress=False)
    model.save_pretrained(tmp_path / "all")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob(FILE)) == [
        f"all/{FILE}", f"all/one/{FILE}",
    ]  # fmt: skip
    for folder, method in (("all/one", "tsv_merge"), ("all", "ties")):
        found = content(tmp_path / folder)
        assert (found["kind"], found["method"]["name"], found["output"]["changed"]) == ("adapter", method, False)
        assert set(found["output"]["hashes"]) == {"adapter_config.json", "adapter_model.safetensors"}
        assert [each["adapters"][0]["source"] for each in found["models"][1:]] == sorted(ROLES)
        assert all("card" not in each["adapters"][0] for each in found["models"][1:])
    model.save_pretrained(tmp_path / "some", selected_adapters=["honesty"])
    assert not list((tmp_path / "some").rglob(FILE))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".one." in name:
                parameter += 1
    model.save_pretrained(tmp_path / "later", selected_adapters=["one"])
    assert content(tmp_path / "later" / "one")["output"]["changed"] is True


def test_what_cannot_be_written_is_said(place: Path, tmp_path: Path) -> None:
    (tmp_path / f".{FILE}.new").mkdir()
    with pytest.raises(OutputError, match="manifest cannot be written"):
        merged(place).save_pretrained(tmp_path)


def test_uploads_are_finished_first(place: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """What `push_to_hub` uploads holds the manifest; nothing is sent here."""
    from transformers import PreTrainedModel
    from transformers.utils import hub

    seen: list[set[str]] = []

    class Api:
        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Url", (), {"repo_id": repo_id})

        def create_commit(self, *_: Any, operations: Any, **__: Any) -> Any:
            seen.append({each.path_in_repo for each in operations})

    class Card:
        def save(self, path: str) -> None:
            Path(path).write_text("card")

    monkeypatch.setattr(hub, "hf_api", lambda *_, **__: Api())
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *_, **__: Card())
    assert hasattr(PreTrainedModel.save_pretrained, "merge_3h")
    merged(place).push_to_hub("me/merged")
    assert json.dumps(sorted(seen[0])) == json.dumps(
        ["README.md", "config.json", "generation_config.json", FILE, "model.safetensors"]
    )
