"""The small comparison, run by its command: killed twice on the way, again from nothing, and with a step that fails."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from hf_merge3h.cli import app
from hf_merge3h.errors import RequestError
from hf_merge3h.evaluation.statistics import mean_interval
from hf_merge3h.lab.comparison.findings import Findings
from hf_merge3h.lab.comparison.reading import read_lab
from hf_merge3h.lab.comparison.records import Records
from hf_merge3h.lab.comparison.steps import graph_of
from tests.evaluation import tiny

from . import small


def command(*arguments):
    return [sys.executable, "-m", "hf_merge3h.cli", "lab", *map(str, arguments)]


def run(file: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command("run", file, "--out", out, *more), capture_output=True, text=True)


def killed(file: Path, out: Path, after: str) -> None:
    """Start a run and kill it, without a chance to tidy up, when a step's folder appears."""
    process = subprocess.Popen(command("run", file, "--out", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 120
        while not (out / "steps" / after).is_dir():
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < limit, f"{after} never began"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def still(out: Path) -> None:
    """No step outlives the run that began it."""
    time.sleep(1.0)
    marks = {path: path.stat().st_mtime for path in out.rglob("*")}
    time.sleep(1.0)
    assert {path: path.stat().st_mtime for path in out.rglob("*")} == marks


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A whole run, killed twice on the way: its file, its folder, and what the last of the three runs said."""
    place = tmp_path_factory.mktemp("lab")
    file, out = small.lab(place), place / "out"
    killed(file, out, "train/static/full/honesty")
    still(out)
    killed(file, out, "measure/test/static/full/r_tsvm")
    done = run(file, out)
    assert done.returncode == 0, done.stderr
    return file, out, done.stderr


def figures(out: Path):
    arena = json.loads((out / "findings.json").read_text())["arenas"][0]
    return {name: (one["figures"], one.get("recovery")) for name, one in arena["models"].items()}


def test_a_run_that_was_killed_twice_ends_with_the_same_numbers(ran, tmp_path):
    file, out, said = ran
    assert "train/static/full/helpfulness" not in said  # what was done stays done
    lab = read_lab(file)
    graph = graph_of(lab, tmp_path)
    small.do(graph, graph.steps)
    Findings.of(Records.of(lab, graph)).save(tmp_path)
    assert figures(tmp_path) == figures(out)


def test_a_second_run_does_nothing(ran):
    file, out, _ = ran
    again = run(file, out)
    assert (again.returncode, again.stderr) == (0, "")


def test_steps_that_need_nothing_of_each_other_are_done_at_once(ran, tmp_path):
    file, out, _ = ran
    shutil.copytree(out, tmp_path / "out")
    for method in ("task_arithmetic", "r_tsvm"):
        shutil.rmtree(tmp_path / "out/steps/measure/test/static/full" / method)
    done = run(file, tmp_path / "out", "--jobs", "2")
    assert [line.rsplit(" ", 1)[1] == "..." for line in done.stderr.splitlines()] == [True, True, False, False]
    assert figures(tmp_path / "out") == figures(out)


def test_figures_are_those_of_the_items(ran):
    _, out, _ = ran
    (scores,) = (out / "steps/measure/test/static/full/r_tsvm").glob("*/run/items/model/gold.scores.jsonl")
    values = [json.loads(line)["value"] for line in scores.read_text().splitlines()]
    told = figures(out)["r_tsvm"][0]["gold"]
    assert told["n"] == len(values) == 8
    assert told["value"] == pytest.approx(mean_interval(values)[0])


def test_the_report_says_what_is_ours_and_what_is_undefined(ran):
    _, out, _ = ran
    text = (out / "report.md").read_text()
    assert "r_tsvm (reconstruction)" in text
    assert "is not in its abstract" in text
    assert "undefined" in text  # a random model's facts are as good as its expert's
    assert (out / "recovery-static-full-light.png").stat().st_size > 5000


def test_only_weights_that_are_needed_are_kept(ran):
    _, out, _ = ran
    holders = {path.relative_to(out / "steps").parts[0] for path in (out / "steps").rglob("*.safetensors")}
    assert holders == {"train"}
    assert not list(out.rglob("checkpoints"))
    assert not list(out.rglob("partial"))
    assert not list((out / "steps").rglob("report.html"))  # the comparison has one of its own


def test_status_and_report_run_nothing(ran):
    file, out, _ = ran
    told = CliRunner().invoke(app, ["lab", "status", str(file), "--out", str(out)])
    assert told.exit_code == 0
    assert "10 done" in told.output
    listed = json.loads(CliRunner().invoke(app, ["lab", "status", str(file), "--out", str(out), "--json"]).output)
    assert {one["state"] for one in listed} == {"done"}
    assert all(one["peak_mb"] > 0 for one in listed)
    before = (out / "report.md").read_text()
    (out / "report.md").unlink()
    assert CliRunner().invoke(app, ["lab", "report", str(file), "--out", str(out)]).exit_code == 0
    assert (out / "report.md").read_text() == before


def test_the_report_comes_again_from_the_records_alone(ran, tmp_path):
    _, out, _ = ran
    kept = tmp_path / "kept.json.gz"
    Records.read(out / "records.json").save(kept)
    assert b"question number" not in (out / "records.json").read_bytes()  # numbers alone
    told = CliRunner().invoke(app, ["lab", "report", str(kept), "--out", str(tmp_path / "again")])
    assert told.exit_code == 0, told.output
    for name in ("report.md", "findings.json", "recovery-static-full-dark.png"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes(), name


def test_a_step_that_fails_is_told_and_the_others_go_on(tmp_path):
    for number, role in enumerate(small.ROLES, 1):
        tiny.folder(tmp_path / role, number)
    other = tmp_path / "honesty"
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"intermediate_size": 16}))
    tensors = load_file(other / "model.safetensors")
    from safetensors.torch import save_file

    cut = {name: t[:16].contiguous() if "gate_proj" in name or "up_proj" in name else t for name, t in tensors.items()}
    cut = {name: t[:, :16].contiguous() if "down_proj" in name else t for name, t in cut.items()}
    save_file(cut, other / "model.safetensors", metadata={"format": "pt"})
    file = small.lab(
        tmp_path, data=None, training=None, paradigms=None, experts={role: role for role in small.ROLES},
        methods={"task_arithmetic": {}},
    )  # fmt: skip
    only = ("--only", "measure/test/static/given/expert-honesty", "--only", "measure/test/static/given/task_arithmetic")
    done = run(file, tmp_path / "out", *only)
    assert done.returncode == 1
    assert "measure/test/static/given/expert-honesty: " in done.stderr  # an expert of another shape can be asked
    assert "1 of 2 steps are not done" in done.stderr
    assert "failed   measure/test/static/given/task_arithmetic" in done.stderr
    assert "honesty" in done.stderr.split("task_arithmetic", 1)[1]
    assert "Not done" in (tmp_path / "out" / "report.md").read_text()


def test_bad_arguments_are_told_before_anything_is_made(tmp_path):
    file = small.lab(tmp_path)
    for arguments, said in (
        (["run", file, "--out", tmp_path / "out", "--only", "mesure"], "the beginning of a step.s name"),
        (["run", file, "--out", tmp_path / "out", "--hours", "0"], "a number of hours above 0"),
        (["status", file, "--out", tmp_path / "none"], "begin one with"),
        (["run", tmp_path / "none.yaml", "--out", tmp_path / "out"], "cannot be read"),
    ):
        with pytest.raises(RequestError, match=said):
            CliRunner().invoke(app, ["lab", *map(str, arguments)], catch_exceptions=False)
    assert not (tmp_path / "out" / "steps").exists()


def test_scale_is_tuned_on_the_development_split_alone(tmp_path):
    evaluation = {"test": "suite/tiny.yaml", "development": "suite/tiny.yaml", "limit": 6}
    file = small.lab(
        tmp_path, methods={"task_arithmetic": {}, "linear": {}}, evaluation=evaluation,
        training={"full": {"steps": 12, "batch_size": 4, "learning_rate": 3e-3}},
        tuning={"trials": 2, "limit": 4, "low": 0.5, "high": 1.5}, ablation={"uniform_cut": {}, "random_weights": {}},
    )  # fmt: skip
    lab = read_lab(file)
    graph = graph_of(lab, tmp_path / "out")
    assert not any(name.startswith("tune") and "linear" in name for name in graph.steps)  # it has no scale
    search = graph.steps["tune/static/full/task_arithmetic"]
    assert all(name.startswith(("measure/development", "train", "questions")) for name in search.inputs)
    assert search.settings["suite"] == graph.steps["measure/development/base"].settings["suite"]
    names = ["questions", *(name for name in graph.steps if name.startswith(("train", "measure/development")))]
    small.do(graph, names)
    told = Findings.of(Records.of(lab, graph)).arenas
    assert [arena.split for arena in told] == ["development"]
    assert set(told[0].merges) == {"uniform_cut", "random_weights"}


def test_sets_that_count_for_no_h_are_compared_all_the_same(tmp_path):
    """IFEval, where a suite leaves it out of its H's mean: figures and paired tests, and nothing of recovery."""
    file = small.lab(tmp_path, evaluation={"test": "suite/tiny.yaml", "limit": 6, "datasets": ["gold"]})
    suite = tmp_path / "suite" / "tiny.yaml"
    content = yaml.safe_load(suite.read_text())
    content["datasets"]["gold"]["averaged"] = False
    suite.write_text(yaml.safe_dump(content))
    lab = read_lab(file)
    graph = graph_of(lab, tmp_path / "out")
    small.do(graph, graph.steps)
    told = Findings.of(Records.of(lab, graph))
    text = told.save(tmp_path / "page").read_text()
    figures = told.arenas[0].figures("task_arithmetic")["gold"]["value"]
    assert f"| task_arithmetic | {figures:.3f}" in text
    assert "r_tsvm minus the others" in text
    for missing in ("recovery of", "What each expert changes"):
        assert missing not in text.split("## static/full", 1)[1]
    assert list((tmp_path / "page").glob("*.png")) == []
    tuned = {**yaml.safe_load(file.read_text()), "tuning": {"trials": 2}}
    tuned["evaluation"]["development"] = "suite/tiny.yaml"
    file.write_text(yaml.safe_dump(tuned))
    with pytest.raises(RequestError, match=r"tuning: nothing to search by: of gold in .*averaged: false"):
        read_lab(file)


def test_a_mixture_is_as_large_as_what_the_experts_saw(tmp_path):
    lab = read_lab(small.lab(tmp_path, mixtures={"heuristic": {}}))
    graph = graph_of(lab, tmp_path / "out")
    small.do(graph, ["mix/full/heuristic"])
    rows = (graph.folder("mix/full/heuristic") / "mixture.jsonl").read_text().splitlines()
    assert len(rows) == 3 * 3 * 2
    assert graph.steps["train/mixture/full/heuristic"].settings["steps"] == 9
    told = Findings.of(Records.of(lab, graph)).save(tmp_path).read_text()
    assert "| mix/full/heuristic | helpfulness 33%, honesty 33%, harmlessness 33% |" in told


def test_hours_settle_a_run_once(tmp_path):
    from hf_merge3h.lab.comparison.budget import plan, settled

    tuning = {"trials": 20, "limit": 50}
    evaluation = {"test": "suite/tiny.yaml", "development": "suite/tiny.yaml", "limit": 50}
    lab = read_lab(small.lab(tmp_path, training={"full": {"steps": 400}}, tuning=tuning, evaluation=evaluation))
    speed = {"item": 1.0, "step": {"full": 1.0}}
    short, long = (plan(lab, hours * 3600, speed) for hours in (0.3, 100))
    assert long["steps"] == {"full": 400}
    assert (long["limit"], long["trials"]) == (50, 20)
    assert short["steps"]["full"] == pytest.approx(0.3 * 3600 * 0.45 / 3, rel=0.02)
    assert 8 <= short["limit"] < 50
    assert 2 <= short["trials"] < 20
    out = tmp_path / "out"
    out.mkdir()
    (out / "budget.json").write_text(json.dumps({"hours": 0.3, **short}))
    cut = settled(lab, out)
    assert (cut.training["full"].steps, cut.limit) == (short["steps"]["full"], short["limit"])
    with pytest.raises(RequestError, match="for which this run was settled"):
        CliRunner().invoke(
            app, ["lab", "run", str(tmp_path / "lab.yaml"), "--out", str(out), "--hours", "5"], catch_exceptions=False
        )
