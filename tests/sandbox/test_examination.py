"""The answers of a test program stay outside, and what must be asked is known."""

import math

import pytest

from hf_merge3h.errors import RequestError
from hf_merge3h.sandbox import run_programs
from hf_merge3h.sandbox.examination import examination


@pytest.mark.parametrize(
    ("tests", "answer"),
    [
        ("assert f(1) == 'secret7'", "secret7"),
        ("assert 'secret7' == f(1)", "secret7"),
        ("assert f(1) == ['a', ('secret7', {'b': -1.5})], 'message'", ["a", ("secret7", {"b": -1.5})]),
        ("assert set(f(1)) == set(('secret7',))", {"secret7"}),
        ("def check(c):\n    assert c(1) == 'secret7'\ncheck(f)", "secret7"),
        ("for _ in range(2):\n    assert f(1) == 'secret7'", "secret7"),
    ],
)
def test_no_answer_enters_the_sandbox(tests, answer):
    exam = examination(tests)
    assert exam.expected == (answer,)
    assert b"secret7" not in exam.payload
    assert b"message" not in exam.payload


def test_infinity_is_a_literal():
    assert examination("assert f() == float('inf')").expected == (math.inf,)


@pytest.mark.parametrize(
    ("tests", "required"),
    [
        ("assert f() == 1\nassert g()", {0, 1}),
        ("def check(c):\n    x = 1\n    assert c() == 1\n    for _ in []:\n        assert c() == 2\ncheck(f)", {0}),
        ("def check(c):\n    if c():\n        return\n    assert c() == 1\ncheck(f)", set()),
        ("def check(c):\n    assert c() == 1", set()),
        ("def check(c):\n    assert c() == 1\n    yield\ncheck(f)", set()),
        ("def check(c):\n    assert c() == 1\ncheck(f)\ndef check(c):\n    assert c() == 2", set()),
        ("if f():\n    assert f() == 1", set()),
        ("try:\n    assert f() == 1\nexcept AssertionError:\n    pass", set()),
        ("", set()),
    ],
)
def test_what_a_whole_run_must_ask(tests, required):
    assert examination(tests).required == required


@pytest.mark.parametrize("tests", ["assert (", "\x00", "(" * 5000 + ")" * 5000])
def test_tests_that_are_no_python_are_refused(tests):
    with pytest.raises(RequestError, match="a Python program"):
        examination(tests)


@pytest.mark.parametrize(
    ("candidate", "tests", "outcome"),
    [
        ("def f(x): return x", "try:\n    assert f(1) == 2\nexcept AssertionError:\n    pass", "passed"),
        ("def f(x): raise ValueError", "try:\n    f(1)\n    x\nexcept ValueError:\n    pass", "passed"),
        ("def f(x): return x", "from __future__ import annotations\nassert f(1) == 1", "passed"),
        ("def f(x): return [x]", "assert not f(1)[1:]\nassert f(1) is not None\nassert 1 in f(1)", "passed"),
        ("def f(x): return 0.1 + 0.2", "assert abs(f(1) - 0.3) < 1e-9\nassert f(1) != 0.3", "passed"),
        ("def f(x): return 0.1 + 0.2", "assert f(1) == 0.3", "failed"),
        ("def f(x): return x", "for n in range(3):\n    assert f(n) == n\n    assert f(7) == 7", "passed"),
        ("def f(x): return x", "for n in range(3):\n    assert f(n) == 0", "failed"),
        ("if __name__ == '__main__': raise SystemExit\ndef f(x): return x", "assert f(2) == 2", "passed"),
        ("import dataclasses as d\n@d.dataclass\nclass P: x: int", "assert P(1) == P(1)\nassert P(2).x == 2", "passed"),
        ("def f(x): print('noise' * 10**6); return input()", "assert f(1) == 1", "failed"),
        ("def f(x): return x", "assert f('\\ud800') == '\\ud800'", "passed"),
        ("x = 'ü\ud800'", "assert len(x) == 2", "failed"),
    ],
)  # fmt: skip
def test_tests_mean_what_they_mean_in_python(candidate, tests, outcome):
    ran = run_programs([(candidate, tests)])[0]
    assert ran.outcome == outcome, ran
