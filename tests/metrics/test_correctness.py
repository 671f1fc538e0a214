"""Right or wrong: answers of mathematics, choices and programs, in known small cases."""

from __future__ import annotations

import math
import signal
import threading

import pytest

from hf_merge3h.metrics import (
    answers,
    get,
    programs,
    verifier,
)

GSM8K = "5 - 2 = <<5-2=3>>3 apples.\n#### 3"


@pytest.mark.parametrize(
    ("answer", "correct", "strict", "flexible"),
    [
        ("5 - 2 = 3\n#### 3", True, True, True),
        ("#### 3.", True, True, True),
        ("#### 3.0", True, False, False),  # equal as a number, not as text
        ("The answer is 3.", True, False, True),
        ("#### 3\n#### 4", True, True, False),  # the first one counts, the last number is another
        ("#### 4", False, False, False),
        ("It is 6/2", True, False, False),
        ("I do not know", False, False, False),
    ],
)
def test_gsm8k_by_three_rules(answer, correct, strict, flexible):
    (item,) = answers.score([answer], [GSM8K])
    assert (item["correct"], item["strict"], item["flexible"]) == (correct, strict, flexible)


def test_thousands_separators_do_not_matter():
    items = answers.score(["#### 1,234,567", "$1234567"], ["#### 1234567", "#### 1,234,567"])
    assert all(item["correct"] and item["flexible"] for item in items)


@pytest.mark.parametrize(
    ("answer", "gold", "correct"),
    [
        (r"so $\boxed{\dfrac{1}{2}}$", r"\frac{1}{2}", True),
        (r"first \boxed{3}, then \boxed{0.5}", r"\frac12", True),
        (r"first \boxed{0.5}, then \boxed{3}", r"\frac12", False),
        (r"\boxed{(3, \frac{\pi}{2})}", r"\left( 3, \frac{\pi}{2} \right)", True),
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}", True),
        (r"\boxed{x \le 2", r"x \le 2", False),  # the box never closes, and an inequality is none without it
        (r"\boxed{7}", r"The sum is $\boxed{7}$.", True),
    ],
)
def test_math_by_the_last_box(answer, gold, correct):
    (item,) = answers.score([answer], [gold], answer_format="math")
    assert item["correct"] == correct


def test_what_cannot_be_parsed_is_counted():
    told = get("math_accuracy").compute(["no idea", "#### 3"], [GSM8K, GSM8K])
    assert (told["accuracy"], told["parse_rate"], told["n"]) == (0.5, 0.5, 2)


def test_an_answer_that_never_ends_is_stopped_off_the_main_thread():
    found = []
    endless = r"\boxed{" + "^{".join(["9"] * 9) + "}" * 9

    def work() -> None:
        found.extend(answers.score([endless, r"\boxed{5}"], ["7", "5"], answer_format="math", timeout=5.0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert [item["correct"] for item in found] == [False, True]


def test_a_worker_that_takes_too_long_is_replaced():
    own = verifier.Verifier()
    try:
        assert own.compare("$3$", "$3$", 60)["correct"]
        own._process.send_signal(signal.SIGSTOP)  # or it might answer before it is asked how long it took
        assert own.compare("$3$", "$3$", 0.05)["error"] == "timeout"
        assert own.compare("$3$", "$3$", 60)["correct"]
    finally:
        own.close()


def test_choices_by_hand():
    items = get("truthful_choice").score([[math.log(0.2), math.log(0.5), math.log(0.3)]], [[1, 0, 1]])
    assert items[0]["mc1"] == 0.0
    assert items[0]["mc2"] == pytest.approx(0.5)


def test_mc2_holds_far_below_zero():
    told = get("truthful_choice").compute([[-5000.123, -5001.123]], [[0, 1]])
    assert told["mc2"] == pytest.approx(1 / (1 + math.e), abs=1e-9)  # float32 would round the log-likelihoods


def test_binary_only_where_all_questions_are():
    metric = get("truthful_choice")
    assert metric.compute([[-1, -2]], [[1, 0]])["binary"] == 1.0
    assert "binary" not in metric.compute([[-1, -2], [-1, -2, -3]], [[1, 0], [1, 1, 0]])


def test_pass_at_k_by_hand():
    told = programs.summarise([{"outcomes": ["passed"] + ["failed"] * 3}, {"outcomes": ["failed"] * 4}], k=[1, 2, 5])
    assert told["pass@1"] == pytest.approx((1 / 4 + 0) / 2)
    assert told["pass@2"] == pytest.approx((1 - 3 / 6) / 2)
    assert "pass@5" not in told


def test_a_sandbox_error_is_no_failure():
    told = programs.summarise([{"outcomes": ["passed", "sandbox_error"]}, {"outcomes": ["sandbox_error"]}], k=[1, 2])
    assert told["pass@1"] == 1.0
    assert "pass@2" not in told
    assert told["sandbox_error"] == 2
    assert "pass@1" not in programs.summarise([{"outcomes": ["sandbox_error"]}], k=[1])
