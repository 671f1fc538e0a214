"""The folder that a streamed merge leaves: whole, with its side files, or not at all."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hf_merge3h import OutputError, RequestError, merge_recipe
from hf_merge3h.engine.recipes import plan_recipe
from hf_merge3h.engine.stream_plan import Progress
from tests.engine.models import peft_model
from tests.engine.recipes import family, recipe, run, weights


def test_progress_and_side_files(tiny_family: Any, tmp_path: Path) -> None:
    folder, _, _ = tiny_family
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / "base" / name).write_text(json.dumps({"name": name, "chat_template": "old"}))
    told: list[Progress] = []
    run(recipe(folder, "ties", chat_template="{{ messages }}"), tmp_path / "out", tell=told.append)
    assert told[-1].done == told[-1].total
    assert told[-1].left == 0
    assert [each.done for each in told] == sorted(each.done for each in told)
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text())["name"] == "tokenizer.json"
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"


@pytest.mark.parametrize("out", ["weights", "adapter"])
def test_what_is_said_beside_a_recipe_is_in_the_one_that_the_merge_leaves(out: str, tmp_path: Path) -> None:
    base, _ = family(tmp_path)
    for seed, name in enumerate(("a", "b")):
        peft_model(base, {name: {"r": 2}}, seed=seed).save_pretrained(tmp_path, selected_adapters=[name])
    given = {
        "merge_method": "dare_linear",
        "base_model": str(tmp_path / "base"),
        "adapters": [str(tmp_path / "a"), str(tmp_path / "b")],
        "parameters": {"density": 0.5},
        "dtype": "float32",
        "out": out,
    }
    said = merge_recipe(given, tmp_path / "1", dtype="bfloat16", seed=5, progress=False)
    assert said.content["recipe"]["given"] == {**given, "out_dtype": "bfloat16", "seed": 5}
    again = merge_recipe(said.content["recipe"]["given"], tmp_path / "2", progress=False)
    assert again.content["output"]["hashes"] == said.content["output"]["hashes"]
    assert "seed: 5" in (tmp_path / "1" / "README.md").read_text()


def test_chat_templates_by_name_and_the_most_common(tmp_path: Path) -> None:
    family(tmp_path)
    for name, template in (("e1", "{{ 1 }}"), ("e2", "{{ 2 }}"), ("e3", "{{ 2 }}")):
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    run(recipe(tmp_path, "linear", chat_template="auto"), tmp_path / "auto")
    assert (tmp_path / "auto" / "chat_template.jinja").read_text() == "{{ 2 }}"
    run(recipe(tmp_path, "linear", chat_template="chatml"), tmp_path / "named")
    assert "<|im_start|>" in (tmp_path / "named" / "chat_template.jinja").read_text()
    with pytest.raises(RequestError, match="did you mean 'llama3'"):
        plan_recipe(recipe(tmp_path, "linear", chat_template="llama-3"))


def test_a_disk_that_fills_up_leaves_nothing(tiny_family: Any, tmp_path: Path, monkeypatch: Any) -> None:
    folder, _, _ = tiny_family
    (folder / "base" / "vocab.txt").write_text("a")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full)  # the weights are written by then
        with pytest.raises(
            OutputError, match=r"out=.*No space left on device; free some space there, or give another folder"
        ):
            run(recipe(folder, "ties"), tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        with pytest.raises(RequestError, match=r"bytes of free space, and 1,000 are left at .*; free some space"):
            run(recipe(folder, "ties"), tmp_path / "out")
    (folder / "base" / "vocab.txt").unlink()
    assert not list(tmp_path.iterdir())


SCRIPT = """
import sys, time, torch
from pathlib import Path
from hf_merge3h.models.weights import writer
from tests.engine.recipes import recipe
from hf_merge3h.engine.steps import make_stream_plan
from hf_merge3h.engine.stream import merge_plan
write = writer.ShardWriter.write
def slow(self, name, part):
    time.sleep(0.01)
    write(self, name, part)
writer.ShardWriter.write = slow
plan = make_stream_plan(recipe(Path(sys.argv[1]), "task_arithmetic"), device="cpu")
print("go", flush=True)
merge_plan(plan, sys.argv[2], overwrite=True)
"""


def test_a_kill_leaves_nothing_or_all(tiny_family: Any, tmp_path: Path) -> None:
    folder, _, _ = tiny_family
    out = tmp_path / "out"
    before = run(recipe(folder, "linear"), out).outputs
    chance = random.Random(0)
    for _ in range(4):
        command = [sys.executable, "-c", SCRIPT, str(folder), str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.3 * chance.random())
            os.kill(process.pid, signal.SIGKILL)
        assert json.loads((out / "merge3h.json").read_text())["output"]["hashes"]
        weights(out)
    after = run(recipe(folder, "linear"), out, overwrite=True).outputs
    assert after == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
