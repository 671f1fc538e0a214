"""Programs are run apart, their answers are judged outside, and outcomes are kept apart."""

import subprocess
import sys

import pytest

from hf_merge3h.errors import RequestError
from hf_merge3h.sandbox import available, choose, describe, programs, run_programs, walls

KINDS = [kind for kind, reason in available().items() if not reason]


def outcomes(pairs, **options):
    return [one.outcome for one in run_programs(pairs, **options)]


def test_this_machine_isolates():
    assert KINDS, f"no isolation to test here: {available()}"


@pytest.mark.parametrize("kind", KINDS)
def test_outcomes_are_kept_apart_and_in_order(kind):
    square, tests = "def f(x): return x * x", "assert f(3) == 9\nassert f(-2) == 4"
    pairs = [
        (square, tests),
        ("def f(x): return x + x", tests),
        ("def f(x): return x *", tests),
        ("def f(x):\n    while True: pass", tests),
        ("def f(x): return bytearray(20 << 30)", tests),
        ("", tests),
        "print('a whole program')",
        "raise SystemExit(0)",
    ]
    ran = run_programs(pairs, timeout=2, sandbox=kind)
    assert [one.outcome for one in ran] == [
        "passed", "failed", "failed", "timeout", "out_of_memory", "failed", "passed", "failed",
    ]  # fmt: skip
    assert ran[1].detail == "assertion failed: f(3) == 9"
    assert ran[2].detail.startswith("SyntaxError")
    assert ran[5].detail == "NameError: name 'f' is not defined"
    assert all(0 <= one.seconds < 20 for one in ran)
    assert not ran[1].passed
    assert ran[0].passed


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_and_the_standard_library_are_there_and_nothing_else(kind):
    pairs = [
        ("import numpy as np", "assert np.zeros(3).sum() == 0\nassert np.float64(2).item() == 2.0"),
        ("import collections, decimal, re, threading, tempfile", "assert re.sub('a', 'b', 'cat') == 'cbt'"),
        ("import torch", "assert torch"),
        ("import hf_merge3h", "assert hf_merge3h"),
        ("with open('kept', 'w') as file: file.write('x')", "assert open('kept').read() == 'x'"),
    ]
    assert outcomes(pairs, sandbox=kind) == ["passed", "passed", "failed", "failed", "passed"]


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("timeout", {"timeout": 0}),
        ("timeout", {"timeout": float("nan")}),
        ("memory", {"memory": 1000}),
        ("workers", {"workers": 0}),
        ("sandbox", {"sandbox": "bubblewrapp"}),
    ],
)
def test_bad_arguments_are_named(argument, options):
    with pytest.raises(RequestError, match=f"^{argument}="):
        run_programs([("", "")], **options)


def test_bad_programs_are_named_before_anything_runs():
    with pytest.raises(RequestError, match=r"^programs\[1\]=3"):
        run_programs(["", 3])
    with pytest.raises(RequestError, match=r"^programs\[0\]\[1\]=.*data set's"):
        run_programs([("", "assert (")])


def test_no_isolation_needs_consent(monkeypatch):
    monkeypatch.delenv(walls.CONSENT, raising=False)
    with pytest.raises(RequestError, match="HF_ALLOW_CODE_EVAL=1"):
        run_programs([("", "")], sandbox="none")
    monkeypatch.setenv(walls.CONSENT, "1")
    assert outcomes([("x = 1", "assert x == 1"), ("x = 1", "assert x == 2")], sandbox="none") == ["passed", "failed"]


def test_where_nothing_isolates_it_refuses_with_every_reason(monkeypatch):
    monkeypatch.setattr(programs, "_reason", lambda kind: f"no {kind} today")
    with pytest.raises(RequestError) as caught:
        run_programs([("", "")])
    for kind in walls.KINDS:
        assert f"{kind}: no {kind} today" in str(caught.value)
    assert describe().startswith("isolated by nothing")


def test_without_bubblewrap_the_next_wall_scores(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert available()["bubblewrap"] == "`bwrap` is not on PATH"
    assert choose() == next(kind for kind in KINDS if kind != "bubblewrap")
    assert outcomes([("x = 1", "assert x == 1")]) == ["passed"]


def test_a_wall_that_breaks_is_no_failure_of_the_program(monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "No permissions" in available()["bubblewrap"]
    monkeypatch.setattr(programs, "_reason", lambda kind: "")
    ran = run_programs([("x = 1", "assert x == 1")], sandbox="bubblewrap")
    assert (ran[0].outcome, ran[0].detail) == ("sandbox_error", "bwrap: No permissions to create new namespace")


def test_the_room_is_light():
    code = "import hf_merge3h.sandbox, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["False"] * 2
