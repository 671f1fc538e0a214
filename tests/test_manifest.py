"""merge3h.json: whole, readable, and what its schema says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import blake3
import pytest

from hf_merge3h import SourceError
from hf_merge3h.engine.steps import make_stream_plan
from hf_merge3h.engine.stream import merge_plan
from hf_merge3h.manifest import FILE, NOT_RECORDED, load_manifest, schema
from tests.engine.recipes import family, recipe

KINDS: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip


def conforms(value: Any, rule: dict[str, Any], root: dict[str, Any]) -> bool:
    """As much of JSON Schema as ours uses."""
    if "$ref" in rule:
        rule = root["$defs"][rule["$ref"].rpartition("/")[2]]
    if "oneOf" in rule:
        return sum(conforms(value, each, root) for each in rule["oneOf"]) == 1
    if "const" in rule or "enum" in rule:
        return value in rule.get("enum", [rule.get("const")])
    kinds = rule.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(isinstance(value, KINDS[kind]) for kind in kinds):
        return False
    if isinstance(value, dict):
        known, more = rule.get("properties", {}), rule.get("additionalProperties", {})
        return set(rule.get("required", ())) <= value.keys() and all(
            conforms(each, known.get(key, more), root) for key, each in value.items()
        )
    if isinstance(value, list):
        return all(conforms(each, rule.get("items", {}), root) for each in value)
    return True


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    family(folder)
    plan = make_stream_plan(recipe(folder, "ties", parameters={"density": 0.5}, seed=7), device="cpu")
    merge_plan(plan, folder / "out")
    merge_plan(plan, folder / "bare", diagnostics=False)
    return folder


@pytest.mark.parametrize("name", ["out", "bare"])
def test_it_is_what_the_schema_says(out: Path, name: str) -> None:
    content = json.loads((out / name / FILE).read_text())
    assert conforms(content, schema(), schema())
    assert not conforms({**content, "seed": "x"}, schema(), schema())
    assert content == load_manifest(out / name).content == load_manifest(out / name / FILE).content


def test_it_tells_what_was_done(out: Path) -> None:
    content = load_manifest(out / "out").content
    (setting,) = content["recipe"]["resolved"]
    assert setting["method"] == "ties"
    assert setting["parameters"]["density"] == 0.5
    assert setting["roles"] == ["harmlessness", "helpfulness", "honesty"]
    assert len(setting["tensors"]) == content["output"]["tensors"]
    assert content["seed"] == 7
    assert content["recipe"]["given"] == {"merge_method": "ties"}
    base = content["models"][3]
    assert base["base"]
    for model in content["models"]:
        for file, found in model["hashes"].items():
            path = out / model["given"] / file
            assert found == blake3.blake3(path.read_bytes()).hexdigest()
    for file, found in content["output"]["hashes"].items():
        assert found == blake3.blake3((out / "out" / file).read_bytes()).hexdigest()
    (party,) = content["diagnostics"]
    assert [block["name"] for block in party["blocks"]][:2] == ["model.embed_tokens", "model.layers.0"]
    assert party["total"]["numbers"] * 4 == content["output"]["bytes"]


def test_what_was_not_measured_is_not_claimed(out: Path) -> None:
    content = load_manifest(out / "bare").content
    assert content["diagnostics"] == content["output"]["hashes"] == NOT_RECORDED
    assert {model["hashes"] for model in content["models"]} == {NOT_RECORDED}


def test_two_runs_are_one(out: Path) -> None:
    plan = make_stream_plan(recipe(out, "ties", parameters={"density": 0.5}, seed=7), device="cpu")
    again = merge_plan(plan, out / "again").content
    first = load_manifest(out / "out").content
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "no JSON"),
        ("[]", "is no manifest"),
        ('{"schema_version": "1"}', "is no manifest"),
        ('{"schema_version": 1}', "lacks kind"),
        ('{"schema_version": 2, "versions": {"hf-merge3h": "0.9"}}', r"pip install 'hf-merge3h>=0.9'"),
        ('{"schema_version": 2}', "pip install --upgrade hf-merge3h"),
        ('{"schema_version": 2, "versions": {"hf-merge3h": "1\' evil \'"}}', "pip install --upgrade hf-merge3h$"),
    ],
)
def test_what_is_no_manifest(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(SourceError, match=error):
        load_manifest(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        load_manifest(tmp_path)
