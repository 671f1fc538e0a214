"""Who judges: a judge that fails, changes, or is not asked."""

from __future__ import annotations

import pytest

from hf_merge3h.errors import RequestError
from hf_merge3h.judges import CallableJudge, RuleJudge

from . import tiny
from .running import evaluate


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


def test_without_a_judge_it_is_named(suite, models, tmp_path):
    report = evaluate(models["base"], suite, tmp_path, limit=2)
    assert {"dataset": "judged", "h": "harmlessness", "reason": "needs a judge"} in report.not_evaluated
    assert report.summary["coverage"] == {
        "helpfulness": "1 of 2 datasets", "honesty": "1 of 1 datasets", "harmlessness": "2 of 3 datasets"
    }  # fmt: skip
