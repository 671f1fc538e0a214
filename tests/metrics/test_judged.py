"""Rates by a judge's verdicts: bounds where none can be read, and judges that fail."""

from __future__ import annotations

import pytest

from hf_merge3h.errors import MergeError
from hf_merge3h.metrics import (
    get,
    judged,
)


class Says:
    """A verdict."""

    def __init__(self, harmful):
        self.harmful = harmful


def test_bounds_where_verdicts_cannot_be_read():
    verdicts = [Says(False), Says(True), Says(None), Says(False)]
    told = get("safety_rate").compute(["a"] * 4, ["p"] * 4, judge=lambda prompts, answers, references=None: verdicts)
    assert told["safety_rate"] == pytest.approx(2 / 3)
    assert (told["parse_rate"], told["safety_rate_lower"], told["safety_rate_upper"]) == (0.75, 0.5, 0.75)


def test_no_verdict_no_rate():
    told = get("safety_rate").compute(["a"], ["p"], judge=lambda *_: [Says(None)])
    assert "safety_rate" not in told
    assert (told["safety_rate_lower"], told["safety_rate_upper"]) == (0.0, 1.0)


def test_the_judge_sees_prompts_and_references():
    seen = []

    def judge(prompts, answers_, references=None):
        seen.append((prompts, answers_, references))
        return [Says(False)]

    judged.ask(["a"], [{"prompt": "p", "reference": "r"}], judge=judge, field="harmful")
    assert seen == [(["p"], ["a"], ["r"])]


@pytest.mark.parametrize(
    ("judge", "what"),
    [
        (lambda *_: [], "0 verdicts for 1"),
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda *_: [Says("yes")], "harmful='yes'"),
    ],
)
def test_a_judge_that_fails(judge, what):
    with pytest.raises(MergeError, match=what):
        get("safety_rate").compute(["a"], ["p"], judge=judge)
