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
import torch
import yaml

import hf_merge3h
from hf_merge3h.errors import MergeError, RequestError, SourceError
from hf_merge3h.evaluation import generate, scoring
from hf_merge3h.evaluation.items import question_hash
from hf_merge3h.evaluation.report import Report
from hf_merge3h.evaluation.store import Store, locked
from hf_merge3h.judges import CallableJudge, RuleJudge
from hf_merge3h.metrics.rules import rule_hash

from . import tiny

FAST = {"progress": False, "device": "cpu"}


def rows(out: Path) -> dict[str, dict[str, dict]]:
    """Everything on disk but which model was asked."""
    return {str(path.relative_to(out)): Store(path).rows for path in sorted((out / "items").rglob("*.jsonl"))}


def evaluate(models, suite, out, **options):
    return hf_merge3h.evaluate_3h(models, suite, out=out, **{**FAST, **options})


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


def test_out_of_memory_halves_the_batch_and_says_so(suite, models, tmp_path, monkeypatch):
    plain = evaluate(models["base"], suite, tmp_path / "plain", batch_size=1, datasets=["sums", "gold"])
    real = torch.nn.Module.__call__

    def small(self, *args, **named):
        ids = named.get("input_ids")
        if ids is not None and len(ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, *args, **named)

    monkeypatch.setattr(torch.nn.Module, "__call__", small)
    report = evaluate(models["base"], suite, tmp_path / "small", batch_size=8, datasets=["sums", "gold"])
    assert [text for text in report.facts["warnings"] if "batches of" in text] == [
        "merged: out of memory: batches of 4 from here on", "merged: out of memory: batches of 2 from here on"
    ]  # fmt: skip
    assert report.figures["sums"]["merged"].n == plain.figures["sums"]["merged"].n
    batching = generate.Batching(4, lambda text: None)

    def never(items):
        raise MemoryError

    with pytest.raises(MergeError, match="one item alone"):
        list(batching.run([1, 2, 3], never))


def test_batches_change_nothing_that_matters(suite, models, tmp_path):
    values = [
        evaluate(models["base"], suite, tmp_path / str(size), batch_size=size, datasets=["gold", "facts"]).figures
        for size in (1, 5)
    ]
    for name in ("gold", "facts"):
        assert values[0][name]["merged"].value == pytest.approx(values[1][name]["merged"].value, abs=1e-5)


def test_live_models_and_adapters_are_given_back_as_they_were(suite, tmp_path):
    from tests.engine.models import peft_model

    base = tiny.model().train()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    adapted = peft_model(base, {"helpful": {}})
    adapted.save_pretrained(tmp_path / "adapter")
    models = {
        "base": base, "helpful": (base, tmp_path / "adapter" / "helpful"), "honest": (adapted, "helpful"),
        "under": (adapted, None),
    }  # fmt: skip
    report = evaluate(models, suite, tmp_path / "out", limit=4, tokenizer=tiny.tokenizer(), datasets=["gold"])
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert base.training
    gold = report.values["gold"]
    assert gold["base"] == gold["under"]
    assert gold["helpful"] == pytest.approx(gold["honest"], rel=1e-5)
    assert gold["helpful"] != pytest.approx(gold["base"], rel=1e-3)


def test_an_adapters_folder_stands_on_the_base_that_is_given(suite, models, tmp_path):
    from tests.engine.models import peft_model

    peft_model(tiny.model(), {"helpful": {}}).save_pretrained(tmp_path)
    trained = [question_hash(tiny.sum_question(k)) for k in (1, 2, 3)]
    (tmp_path / "helpful" / "training_questions.json").write_text(json.dumps({"sha256": trained}))
    asked = {"base": models["base"], "helpful": tmp_path / "helpful"}
    report = evaluate(asked, suite, tmp_path / "out", datasets=["sums", "facts"])
    assert report.facts["left_out"] == {"sums": 3, "facts": 0}
    assert report.figures["sums"]["base"].n == 9
    assert "trained on the question: sums 3" in report.to_markdown()
    (tmp_path / "helpful" / "training_questions.json").write_text("{}")
    with pytest.raises(SourceError, match="no hashes of questions"):
        evaluate(asked, suite, tmp_path / "again")


def test_without_a_chat_template_examples_come_first(suite, tmp_path):
    from hf_merge3h.evaluation.models import opened
    from hf_merge3h.evaluation.suite import read_suite

    task = read_suite(suite).tasks["sums"]
    for chat, expected in (
        (True, "[user] 2 + 2?\n[assistant] "), (False, "Question: 1 + 1?\nAnswer: #### 2\n\nQuestion: 2 + 2?\nAnswer:")
    ):  # fmt: skip
        with opened("m", tiny.folder(tmp_path / str(chat), chat=chat), device="cpu") as model:
            assert generate.prompt_text(task, "2 + 2?", model) == expected


def test_a_shared_prefix_gives_what_plain_scoring_gives(models):
    from hf_merge3h.evaluation.likelihood import choice_scores, continuations, token_scores
    from hf_merge3h.evaluation.models import opened

    texts = ["yes", "no, never in my life", "x"]
    with opened("m", models["base"], device="cpu") as model:
        (shared,) = choice_scores(model, "Is it so? ", texts, 2)
        before, _, after = continuations(model, "Is it so? ", texts)
        (found,) = token_scores(model, [(before, part) for part in after])
        plain = [float(row.sum()) for row in found]
        alone = []
        for part in after:
            ids = torch.tensor([[*before, *part]])
            logits = model.model(input_ids=ids).logits[0].log_softmax(-1)
            alone.append(sum(logits[len(before) + k - 1, token].item() for k, token in enumerate(part)))
    assert shared == pytest.approx(alone, abs=1e-4)
    assert plain == pytest.approx(alone, abs=1e-4)


class Verdict:
    def __init__(self, harmful, parsed=True):
        self.harmful, self.parsed, self.label, self.refusal, self.hallucinated = harmful, parsed, None, None, None
        self.score, self.raw = None, "said"


def test_a_judge_that_throws_or_talks_nonsense_loses_nothing(suite, models, tmp_path):
    asked = []

    def judge(prompts, responses, references):
        asked.append(len(prompts))
        if any("bank 3" in prompt for prompt in prompts):
            raise ConnectionError("gone")
        return [Verdict(None, parsed=False) if "bank 5" in prompt else Verdict(False) for prompt in prompts]

    report = evaluate(models["base"], suite, tmp_path, datasets=["judged"], judge=judge)
    told = report.to_dict()["datasets"][0]
    assert told["figures"]["merged"]["parse_rate"] == pytest.approx(10 / 12)
    assert (told["values"]["merged"]["value"], told["values"]["merged"]["n"]) == (1.0, 10)
    assert told["figures"]["merged"]["safety_rate_lower"] == pytest.approx(10 / 12)
    assert "1 items without a verdict" in report.facts["warnings"][0]
    assert "2 of 12 items have no verdict" in report.to_markdown()
    asked.clear()
    mended = evaluate(
        models["base"], suite, tmp_path, datasets=["judged"], judge=lambda p, r, k: [Verdict(True)] * len(p)
    )
    assert mended.to_dict()["datasets"][0]["figures"]["merged"]["parse_rate"] == pytest.approx(11 / 12)
    assert asked == []


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


def test_another_judge_judges_again_and_asks_no_model(suite, models, tmp_path):
    says = {"datasets": ["judged"]}
    for name, harmful in (("mild", False), ("strict", True)):
        judge = CallableJudge(lambda *_, harmful=harmful: harmful, id=name, base="llama")
        report = evaluate({"merged": models["base"]}, suite, tmp_path, judge={"safety_rate": judge}, **says)
        assert report.figures["judged"]["merged"].value == float(not harmful)
        assert report.facts["judge"]["judges"]["safety_rate"]["id"] == name
    assert len((tmp_path / "items" / "merged" / "judged.answers.jsonl").read_text().splitlines()) == 12
    named = tiny.folder(tmp_path / "llama-3-tiny")
    report = evaluate({"merged": named}, suite, tmp_path / "related", judge=judge, limit=1, **says)
    assert "are of one family (llama)" in report.facts["warnings"][0]
    assert "judges favour their own" in report.to_markdown()


def test_a_set_of_which_no_verdict_could_be_read_is_named(suite, models):
    judge = CallableJudge(lambda *_: "I would rather not say", id="shy")
    report = evaluate({"merged": models["base"]}, suite, None, limit=3, datasets=["judged"], judge=judge)
    assert report.to_dict()["datasets"] == []
    reasons = {one["dataset"]: one["reason"] for one in report.not_evaluated}
    assert reasons["judged"].startswith("none of 3 verdicts could be read (parse_rate 0)")
    assert report.summary["coverage"]["harmlessness"] == "0 of 1 datasets asked for (2 more were not)"
    shown = report.to_markdown()
    assert "3 of 3 items have no verdict" in shown
    assert "Not asked for: sums, gold, facts, safe, unsafe." in shown
    assert "### Data sets" not in shown


def test_a_judge_that_does_not_speak_of_it_is_not_asked(suite, models, tmp_path):
    with pytest.raises(RequestError, match="the judge words does not say what is harmful"):
        evaluate(models["base"], suite, tmp_path, datasets=["judged"], judge=RuleJudge(bool, id="words"))
    with pytest.raises(RequestError, match="did you mean 'safety_rate'"):
        evaluate(models["base"], suite, tmp_path, judge={"safety": RuleJudge(bool)})


def test_data_sets_that_were_not_asked_for_are_not_missing(suite, models):
    report = evaluate(models["base"], suite, None, limit=1, datasets=["facts", "safe"])
    assert report.summary["coverage"] == {
        "helpfulness": "none of 3 datasets was asked for", "honesty": "1 of 1 datasets asked for",
        "harmlessness": "1 of 1 datasets asked for (2 more were not)",
    }  # fmt: skip


def test_without_a_judge_it_is_named(suite, models, tmp_path):
    report = evaluate(models["base"], suite, tmp_path, limit=2)
    assert {"dataset": "judged", "h": "harmlessness", "reason": "needs a judge"} in report.not_evaluated
    assert report.summary["coverage"] == {
        "helpfulness": "1 of 2 datasets", "honesty": "1 of 1 datasets", "harmlessness": "2 of 3 datasets"
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


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({}, "models={}"), ({"a b/c": "x"}, "names a folder"), ({"merged": 3}, "models['merged']='int'"),
        ({"merged": Path("nowhere")}, "no such folder"), ({"merged": ("a", "b", "c")}, "(model, adapter)"),
    ],
)  # fmt: skip
def test_bad_models(suite, models, message):
    with pytest.raises(RequestError) as told:
        evaluate(models, suite, None)
    assert message in str(told.value)


def test_an_unreadable_model_is_told(suite, tmp_path):
    tiny.folder(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(SourceError, match="cannot be loaded"):
        evaluate(tmp_path / "broken", suite, tmp_path / "out", limit=1)


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
