"""The runner: the same items again, resumed where it was killed, what it refuses, what it counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from hf_merge3h.errors import RequestError, SourceError
from hf_merge3h.evaluation import scoring
from hf_merge3h.evaluation.report import Report
from hf_merge3h.evaluation.store import locked
from hf_merge3h.metrics.rules import rule_hash

from . import tiny
from .running import evaluate, rows


def test_the_same_request_gives_the_same_items(suite, models, tmp_path):
    first = evaluate(models, suite, tmp_path / "a", limit=5)
    evaluate(models, suite, tmp_path / "b", limit=5)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert {name: one["base"].n for name, one in first.figures.items()} == dict.fromkeys(
        ("sums", "gold", "facts", "safe", "unsafe"), 5
    )
    # asked once more it finds all there, and another seed takes other items
    before = {path: path.read_bytes() for path in (tmp_path / "a" / "items").rglob("*.jsonl")}
    evaluate(models, suite, tmp_path / "a", limit=5)
    assert {path: path.read_bytes() for path in before} == before
    other = evaluate(models, suite, tmp_path / "c", limit=5, seed=1)
    assert other.facts["datasets"]["sums"]["ids"] != first.facts["datasets"]["sums"]["ids"]


def test_a_suite_may_say_how_many_items_are_asked_at_most(suite, models, tmp_path):
    content = yaml.safe_load(suite.read_text())
    content["datasets"]["sums"]["items"] = 5
    few = suite.with_name("few.yaml")
    few.write_text(yaml.safe_dump(content))
    for limit, expected in ((None, 5), (7, 5), (3, 3)):
        report = evaluate(models["base"], few, tmp_path / str(limit), limit=limit, datasets=["sums"])
        assert report.figures["sums"]["merged"].n == expected


def test_a_larger_limit_adds_items(suite, models, tmp_path):
    evaluate(models["base"], suite, tmp_path, limit=3)
    small = rows(tmp_path)
    report = evaluate(models["base"], suite, tmp_path, limit=7)
    assert report.figures["sums"]["merged"].n == 7
    for name, found in small.items():
        assert {key: rows(tmp_path)[name][key] for key in found} == found


def test_a_run_that_was_killed_goes_on(models, tmp_path):
    suite = tiny.suite(tmp_path / "suite", n=24, tokens=40)
    whole = tmp_path / "whole"
    evaluate(models["base"], suite, whole, batch_size=2)
    code = (
        "import sys, hf_merge3h; hf_merge3h.evaluate_3h(sys.argv[1], sys.argv[2], out=sys.argv[3], batch_size=2, "
        "progress=False, device='cpu')"
    )
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", code, str(models["base"]), str(suite), str(out)])
    first = out / "items" / "merged" / "sums.answers.jsonl"
    end = time.monotonic() + 240
    while not (first.exists() and first.stat().st_size) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = first.read_bytes()
    assert b"\n" in done
    assert not (out / "report.json").exists()
    with first.open("ab") as file:
        file.write(b'{"id": "half a li')
    evaluate(models["base"], suite, out, batch_size=2)
    assert first.read_bytes().startswith(done[: done.rfind(b"\n") + 1])
    assert rows(out) == rows(whole)


def test_a_broken_line_in_the_middle_is_told(suite, models, tmp_path):
    evaluate(models["base"], suite, tmp_path, limit=2)
    path = tmp_path / "items" / "merged" / "sums.answers.jsonl"
    path.write_bytes(b"no json\n" + path.read_bytes())
    with pytest.raises(SourceError, match=r"sums\.answers\.jsonl, line 1: broken"):
        evaluate(models["base"], suite, tmp_path, limit=2)


def test_another_model_or_request_is_not_mixed_in(suite, models, tmp_path):
    evaluate(models["base"], suite, tmp_path, limit=2)
    with pytest.raises(RequestError, match="of another one"):
        evaluate(models["helpful"], suite, tmp_path, limit=2)
    with pytest.raises(RequestError, match="differ in: seed"):
        evaluate(models["base"], suite, tmp_path, limit=2, seed=3)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "file").touch()
    with pytest.raises(RequestError, match="a new folder"):
        evaluate(models["base"], suite, tmp_path / "else")


def test_what_has_changed_is_done_again_and_the_rest_is_kept(models, tmp_path):
    suite = tiny.suite(tmp_path / "suite", n=4)
    chosen = {"datasets": ["sums", "facts"]}
    evaluate(models["base"], suite, tmp_path / "out", **chosen)
    before = rows(tmp_path / "out")
    for name, old, new in (("sums", "#### 4", "#### 5"), ("facts", "a second one", "another one")):
        path = suite.parent / f"{name}.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([line.replace(old, new) if k == 2 else line for k, line in enumerate(lines)]))
    report = evaluate(models["base"], suite, tmp_path / "out", **chosen)
    after = rows(tmp_path / "out")
    fresh = evaluate(models["base"], suite, tmp_path / "fresh", **chosen)
    assert report.values == fresh.values
    again = {name: [key for key in before[name] if before[name][key] != after[name][key]] for name in before}
    assert {Path(name).name: len(keys) for name, keys in again.items()} == {
        "sums.answers.jsonl": 0, "sums.scores.jsonl": 1, "facts.answers.jsonl": 1, "facts.scores.jsonl": 1,
    }  # fmt: skip
    assert report.facts["datasets"]["sums"]["dataset_revision"].startswith("sha256:")
    one, other = (json.loads((tmp_path / name / "run.json").read_text())["datasets"] for name in ("out", "fresh"))
    assert one == other


def test_another_version_of_a_rule_scores_again_and_asks_no_model(suite, models, tmp_path, monkeypatch):
    chosen = {"datasets": ["safe", "facts"], "limit": 3}
    evaluate(models["base"], suite, tmp_path, **chosen)
    before = rows(tmp_path)
    monkeypatch.setattr(scoring, "rule_hash", lambda home: "newer" if home == "refusals" else rule_hash(home))
    evaluate(models["base"], suite, tmp_path, **chosen)
    after = rows(tmp_path)
    changed = {Path(name).name: sum(before[name][key] != after[name][key] for key in before[name]) for name in before}
    assert changed == {
        "safe.answers.jsonl": 0, "safe.scores.jsonl": 3, "facts.answers.jsonl": 0, "facts.scores.jsonl": 0,
    }  # fmt: skip


def test_two_runs_do_not_write_into_one_folder(suite, models, tmp_path):
    with locked(tmp_path), pytest.raises(RequestError, match="no other run is writing to"):
        evaluate(models["base"], suite, tmp_path, limit=1, datasets=["facts"])
    evaluate(models["base"], suite, tmp_path, limit=1, datasets=["facts"])
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="it is a file"):
        evaluate(models["base"], suite, tmp_path / "file", limit=1)


def test_data_sets_that_were_not_asked_for_are_not_missing(suite, models):
    report = evaluate(models["base"], suite, None, limit=1, datasets=["facts", "safe"])
    assert report.summary["coverage"] == {
        "helpfulness": "none of 3 datasets was asked for", "honesty": "1 of 1 datasets asked for",
        "harmlessness": "1 of 1 datasets asked for (2 more were not)",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit=0"), ({"limit": True}, "limit=True"), ({"batch_size": -1}, "batch_size=-1"),
        ({"seed": "a"}, "seed='a'"), ({"datasets": ["sum"]}, "did you mean 'sums'"),
        ({"data": {"sun": "x"}}, "data='sun'"),
        ({"data": {"sums": "none.jsonl"}}, "no such file"), ({"judge": 3}, "judge=3"),
        ({"roles": {"x": "honesty"}}, "roles='x'"),
        ({"roles": {"merged": "honesty"}}, "which base and merged are not; there is none: give one"),
        ({"datasets": []}, "nothing of the suite"),
    ],
)  # fmt: skip
def test_bad_requests(suite, models, tmp_path, options, message):
    with pytest.raises(RequestError) as told:
        evaluate(models["base"], suite, tmp_path / "out", **options)
    assert message in str(told.value)
    assert not (tmp_path / "out").exists()


def test_a_data_set_that_cannot_be_had_is_an_error_or_named(suite, models, tmp_path):
    away = tmp_path / "away"
    away.mkdir()
    for path in suite.parent.iterdir():
        if path.name != "facts.jsonl":
            (away / path.name).write_bytes(path.read_bytes())
    with pytest.raises(SourceError, match=r"facts\.jsonl.*no such file"):
        evaluate(models["base"], away / "tiny.yaml", tmp_path / "out")
    report = evaluate(models["base"], away / "tiny.yaml", tmp_path / "out", limit=1, skip_unreachable=True)
    assert any(one["dataset"] == "facts" and "no such file" in one["reason"] for one in report.not_evaluated)


def test_the_report_is_made_from_the_folder_alone(suite, models, tmp_path):
    report = evaluate(models, suite, tmp_path, limit=4)
    again = Report.read(tmp_path)
    assert again.to_json() == report.to_json() == (tmp_path / "report.json").read_text()
    with pytest.raises(SourceError, match="no run"):
        Report.read(tmp_path / "items")


def test_no_folder_is_needed(suite, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = evaluate({"merged": models["base"]}, suite, None, limit=1, datasets=["facts"])
    assert report.figures["facts"]["merged"].n == 1
    assert list(tmp_path.iterdir()) == []
