"""`hf-merge3h verify` and `inspect`: statuses and what is printed."""

import json

from typer.testing import CliRunner

import hf_merge3h
from hf_merge3h.cli import app
from tests.engine.recipes import family


def _run(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_statuses_and_output(tmp_path):
    family(tmp_path)
    experts = [str(tmp_path / f"e{n}") for n in (1, 2, 3)]
    models = [{"model": each, "parameters": {"weight": 0.5}} for each in experts]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(tmp_path / "base"), "models": models}
    out = tmp_path / "out"
    hf_merge3h.merge_recipe(recipe, out, progress=False)
    done = _run("verify", out)
    assert (done.exit_code, done.output.partition(":")[0]) == (0, "bit-exact")
    done = _run("inspect", out)
    assert "0.5 of expert_1 + 0.5 of expert_2 + 0.5 of expert_3" in done.output
    (out / "merge3h.json").rename(tmp_path / "aside.json")
    done = _run("inspect", out, "--against", tmp_path / "base", *experts, "--json")
    assert [round(each, 3) for each in json.loads(done.output)["total"]["parts"]] == [0.5, 0.5, 0.5]
    (tmp_path / "aside.json").rename(out / "merge3h.json")
    (out / "config.json").write_text("{}")
    done = _run("verify", out, "--json")
    found = json.loads(done.output)
    assert (done.exit_code, found["outcome"], found["exit_code"]) == (1, "differs", 1)
    assert "config.json: was changed" in found["findings"][0]
