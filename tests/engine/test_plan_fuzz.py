"""`plan` of recipes and files that chance has changed: a plan or one clear error, never anything else.

The suite tries some; HF_MERGE3H_FUZZ_EXAMPLES=2000 tries as many recipes, and a quarter as many files.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_merge3h.engine.forecast import plan_text
from hf_merge3h.engine.recipes import plan_recipe
from hf_merge3h.errors import RequestError
from hf_merge3h.recipes.read import read_recipe
from tests.recipes.test_fuzz import EXAMPLES, VALUES, mutated
from tests.recipes.vocabularies import VOCABULARIES, save_model

RECIPE = "merge_method: ties\nbase_model: base\nmodels: [near, chat]\ntokenizer_source: union\nchat_template: auto\n"
#: Files of a model that a plan reads, and how often each is changed.
FILES = ["model.safetensors"] * 4 + ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
#: Values for JSON files.
ODD = st.one_of(VALUES, st.sampled_from([-1, 2**70, "../../etc", "\x00", [[0]], {"a": []}, 1e308, "F32", "BF16"]))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for name in VOCABULARIES:
        save_model(name, folder)
    for name, same in {"a": "near", "b": "near", "c": "near", "d": "near", "far": "near", "x": "near"}.items():
        shutil.copytree(folder / same, folder / name)
    for name in ("tied_base", "tied_a"):
        shutil.copytree(folder / "base", folder / name)
    return folder


def plan(given: Any) -> bool:
    """Whether a plan could be made; anything but a RequestError is a failure of the test."""
    message = ""
    try:
        assert plan_text(plan_recipe(read_recipe(given), device="cpu"))
    except RequestError as problem:
        message = str(problem)
    assert not message or 10 < len(message) < 6000
    return not message


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=mutated(), as_text=st.booleans())
def test_mutated_recipes(data: Any, as_text: bool, place: Path) -> None:
    before = Path.cwd()
    os.chdir(place)  # a recipe's folders are relative to where it is run
    try:
        plan(yaml.safe_dump(data, allow_unicode=True) if as_text else data)
    finally:
        os.chdir(before)


@settings(max_examples=max(40, EXAMPLES // 4), suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_mutated_files(data: st.DataObject, place: Path) -> None:
    model = place / data.draw(st.sampled_from(["base", "near", "chat"]))
    path = model / data.draw(st.sampled_from(FILES))
    good, before = path.read_bytes(), Path.cwd()
    os.chdir(place)
    try:
        path.write_bytes(_changed(data, path, good))
        plan(RECIPE)
    finally:
        path.write_bytes(good)
        os.chdir(before)
        (model / "model.safetensors.index.json").unlink(missing_ok=True)


def _changed(data: st.DataObject, path: Path, good: bytes) -> bytes:
    """Other bytes, other values in its JSON, or an index beside it."""
    tensors = path.suffix == ".safetensors"
    further = ["length", "index"] if tensors else []
    way = data.draw(st.sampled_from(["bytes", "json", "json", "json", "cut", *further]))
    if way == "cut":
        return good[: data.draw(st.integers(0, len(good)))]
    if way == "bytes":
        start = data.draw(st.integers(0, min(len(good) - 1, 3000)))
        return good[:start] + data.draw(st.binary(max_size=6)) + good[start + data.draw(st.integers(0, 6)) :]
    if way == "length":
        return struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1))) + good[8:]
    if way == "index":
        named = ["model.safetensors", "../near/model.safetensors", "/etc/passwd", "no.safetensors", ".."]
        names = st.sampled_from(named)
        index = {"weight_map": data.draw(st.dictionaries(st.sampled_from(["lm_head.weight", "x"]), names | ODD))}
        path.with_name("model.safetensors.index.json").write_text(json.dumps(data.draw(st.just(index) | ODD)))
        return good
    length = struct.unpack("<Q", good[:8])[0] if tensors else 0
    content = json.loads(good[8 : 8 + length] if tensors else good)
    _mutate(data, content)
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + good[8 + length :] if tensors else text


def _mutate(data: st.DataObject, content: Any) -> None:
    """Another value, one key less, or one more, somewhere."""
    node = content
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    if isinstance(node, dict) and data.draw(st.booleans()):
        value = node.pop(key)
        if data.draw(st.booleans()):
            node[data.draw(st.text(max_size=8))] = value
    else:
        node[key] = data.draw(ODD)
