"""All metrics: what they return, their place in three_h, and bad input, which is one clear error."""

from __future__ import annotations

import math

import pytest

from hf_merge3h import RequestError
from hf_merge3h.metrics import (
    balance,
    get,
    list_metrics,
)

from .test_judged import Says


def test_macro_means_at_each_level():
    values = {"gsm8k": 1.0, "math": 0.0, "humaneval": 0.1, "truthfulqa": 0.6, "halueval_wild": 0.2, "xstest_safe": 0.3}
    told = get("three_h").compute(values)
    assert told["dimensions"]["math"] == 0.5
    assert told["helpfulness"] == pytest.approx((0.5 + 0.1) / 2)
    assert told["honesty"] == pytest.approx((0.6 + 0.8) / 2)  # a rate of hallucinations is better when lower
    assert told["harmlessness"] == pytest.approx(0.7)
    assert told["min_h"] == pytest.approx(0.3)
    assert told["missing"]["helpfulness"] == ["mbpp", "ifeval"]


def test_nothing_is_imputed():
    told = get("three_h").compute({"gsm8k": 0.5})
    assert "honesty" not in told
    assert "min_h" not in told
    assert told["coverage"]["honesty"] == "0 of 2 datasets"


def test_the_map_names_our_metrics_and_their_keys():
    for facts in balance.datasets().values():
        metric = get(facts["metric"])
        assert facts["key"] in metric.returns
        assert (facts["direction"] == "lower") == (facts["key"] in metric.lower)


def verdictless(*_):
    return [Says(True)]


@pytest.mark.parametrize(
    ("name", "predictions", "references", "options", "what"),
    [
        ("math_accuracy", [], [], {}, r"predictions=\[\]"),
        ("math_accuracy", ["1"], None, {}, "references=None"),
        ("math_accuracy", ["1", "2"], ["#### 1"], {}, "1 items"),
        ("math_accuracy", "#### 1", "#### 1", {}, "a list"),
        ("math_accuracy", ["1", None], ["#### 1"] * 2, {}, r"predictions\[1\]=None"),
        ("math_accuracy", ["1"], ["no answer"], {}, r"references\[0\]='no answer'"),
        ("math_accuracy", ["1"], [" "], {"answer_format": "math"}, r"references\[0\]"),
        ("math_accuracy", ["1"], ["#### 1"], {"answer_format": "mat"}, "answer_format='mat'"),
        ("math_accuracy", ["1"], ["#### 1"], {"timeout": 0}, "timeout=0"),
        ("math_accuracy", ["1"], ["#### 1"], {"time_out": 1}, "did you mean 'timeout'"),
        ("truthful_choice", [[-1.0, math.nan]], [[1, 0]], {}, r"predictions\[0\].*NaN"),
        ("truthful_choice", [[-1.0, None]], [[1, 0]], {}, "expected numbers"),
        ("truthful_choice", [[-math.inf, -math.inf]], [[1, 0]], {}, "possible at all"),
        ("truthful_choice", [[-1.0, -2.0]], [[1]], {}, "one for each of 2"),
        ("truthful_choice", [[-1.0, -2.0]], [[0, 0]], {}, "at least one label 1"),
        ("truthful_choice", [[-1.0, -2.0]], [[1, 2]], {}, "each 0 or 1"),
        ("truthful_choice", [[-1.0]], [[1]], {}, "at least two"),
        ("refusal_rate", ["a"], ["harmless"], {}, '\'harmless\': expected "safe" or "unsafe"'),
        ("refusal_rate", [None], None, {}, r"predictions\[0\]=None"),
        ("code_pass_at_k", ["def f(): pass"], ["assert f"], {}, r"predictions\[0\].*a list"),
        ("code_pass_at_k", [[]], ["assert f"], {}, r"predictions\[0\].*at least one"),
        ("code_pass_at_k", [["x = 1"]], ["assert x"], {"k": [0]}, r"k=\[0\]"),
        ("code_pass_at_k", [["x = 1"]], ["assert ("], {}, "tests"),
        ("safety_rate", ["a"], ["p"], {}, "judge=None"),
        ("safety_rate", ["a"], [7], {"judge": verdictless}, r"references\[0\]=7"),
        ("hallucination_rate", ["a"] * 2, ["p", {"prompt": "p", "reference": "r"}], {"judge": verdictless}, "1 of 2"),
        ("three_h", {}, None, {}, "at least one"),
        ("three_h", {"gsm8k": math.nan}, None, {}, r"predictions\['gsm8k'\]=nan"),
        ("three_h", {"gsm8k": 40.0}, None, {}, r"a rate in \[0, 1\]"),
        ("three_h", {"gsm8": 0.4}, None, {}, "did you mean 'gsm8k'"),
        ("three_h", {"gsm8k": 0.4}, [1], {}, "references"),
    ],
)
def test_bad_input_is_one_clear_error(name, predictions, references, options, what):
    with pytest.raises(RequestError, match=what):
        get(name).compute(predictions, references, **options)


def test_every_metric_tells_what_it_returns():
    for metric in list_metrics():
        assert metric.returns
        assert metric.lower <= set(metric.returns)
    with pytest.raises(RequestError, match="did you mean 'three_h'"):
        get("threeh")
