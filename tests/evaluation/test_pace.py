"""Evaluations with a time limit: equal shares, equal items, nothing cut off counts, and what was left out is said."""

from __future__ import annotations

import math

import pytest

import hf_merge3h
from hf_merge3h.errors import RequestError, SourceError
from hf_merge3h.evaluation import generate, pace
from hf_merge3h.evaluation.answers import ModelAnswerer
from hf_merge3h.evaluation.endpoint import Endpoint
from hf_merge3h.evaluation.models import opened
from hf_merge3h.evaluation.pace import Deadline, OutOfTimeError, parts, quick_first
from hf_merge3h.evaluation.report import Report
from hf_merge3h.evaluation.suite import read_suite

from . import tiny
from .test_answers import server

FAST = {"progress": False, "device": "cpu"}


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(pace, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def slow(clock, monkeypatch):
    """Each item takes a second of each model: of one that writes it as it goes, others when they are measured."""

    def passes(real):
        def work(self, task, items, *rest):
            for _ in items if isinstance(items, list) else [items]:
                clock.now += 1.0
                for deadline in rest:
                    deadline.check()
            return real(self, task, items, *rest)

        return work

    for name in ("_texts", "_choices", "_likelihoods"):
        monkeypatch.setattr(ModelAnswerer, name, passes(getattr(ModelAnswerer, name)))
    return clock


@pytest.mark.parametrize(
    ("seconds", "each", "sizes"),
    [(math.inf, 5.0, [40]), (100, 0.5, [2, 8, 30]), (100, 5.0, [2, 8, 9]), (100, 45.0, [2]), (10, 45.0, [2])],
)
def test_rounds_grow_as_the_speed_allows(clock, seconds, each, sizes):
    items = {"long": list(range(40)), "short": list(range(3))}
    asked = {name: [] for name in items}
    for name, part in parts(items, dict.fromkeys(items, 0), Deadline(seconds)):
        before = sum(map(len, asked[name]))
        assert part == items[name][before : before + len(part)]  # in their order, none twice
        asked[name].append(part)
        clock.now += each * len(part) * (name == "long")
    assert [len(part) for part in asked["long"]] == sizes
    assert sum(map(len, asked["short"])) == (2 if seconds < 2 * each else 3)  # also where no more of the other fit


@pytest.mark.parametrize(("seconds", "first"), [(100, ["choices", "short", "long"]), (30, ["choices", "short"])])
def test_a_batch_is_not_begun_that_would_end_too_late(clock, seconds, first):
    tokens = {"choices": 0, "short": 8, "long": 32}
    asked: list[str] = []
    for name, _ in parts({name: list(range(9)) for name in tokens}, tokens, Deadline(seconds)):
        asked.append(name)
        clock.now += max(1, tokens[name])  # a second a token, however many items the batch has
    assert asked[: 2 * len(first)] == [*first, *first]
    assert set(asked) == set(first)


def test_the_quickest_of_each_h_comes_first(suite):
    assert quick_first(read_suite(suite).tasks)[:3] in [["gold", "facts", "safe"], ["gold", "facts", "unsafe"]]
    assert quick_first(read_suite("3h-offline").tasks)[:3] == ["gsm8k_likelihood", "truthfulqa", "strongreject"]


def test_models_share_what_is_left(clock):
    whole = Deadline(100)
    assert whole.share(5).left == 20
    clock.now += 5  # the first was quick
    assert whole.share(4).left == pytest.approx(95 / 4)
    assert whole.spent == pytest.approx(0.05)
    clock.now += 200
    assert whole.share(1).left == 0
    with pytest.raises(OutOfTimeError):
        whole.check()
    assert Deadline().spent == 0
    Deadline().check()


def test_enough_time_asks_everything(suite, models, tmp_path):
    plain = hf_merge3h.evaluate_3h(models, suite, limit=5, out=tmp_path / "a", **FAST)
    limited = hf_merge3h.evaluate_3h(models, suite, limit=5, max_seconds=10_000, out=tmp_path / "b", **FAST)
    assert limited.facts["stopped"] == {}
    for name, one in plain.facts["datasets"].items():
        assert limited.facts["datasets"][name]["ids"] == one["ids"]
    for dataset, figures in plain.figures.items():
        for model, figure in figures.items():
            assert limited.figures[dataset][model].value == pytest.approx(figure.value, abs=1e-5)
    assert "Asking stopped" not in limited.to_markdown()


def test_all_models_answer_the_same_and_what_was_left_out_is_said(suite, models, tmp_path, slow):
    report = hf_merge3h.evaluate_3h(models, suite, max_seconds=90, out=tmp_path, **FAST)
    assert slow.now - 1000 <= 90
    asked = {name: len(one["ids"]) for name, one in report.facts["datasets"].items()}
    assert set(asked) == {"sums", "gold", "facts", "safe", "unsafe"}
    assert all(2 <= n < 12 for n in asked.values())
    for name, n in asked.items():
        assert {model: figure.n for model, figure in report.figures[name].items()} == dict.fromkeys(models, n)
        assert report.facts["stopped"][name] == {"answered": n, "of": 12}
    everything = hf_merge3h.evaluate_3h(models["base"], suite, limit=1, **FAST).facts["datasets"]
    assert all(report.facts["datasets"][name]["ids"][:1] == one["ids"] for name, one in everything.items())
    told = f"Asking stopped after 90 s. All models answered, in the order of the seed: sums {asked['sums']} of 12"
    assert told in report.to_markdown()
    assert told in repr(report)
    assert "Asking stopped after 90 s" in report.to_html()
    assert report.to_dict()["stopped"] == report.facts["stopped"]
    assert Report.read(tmp_path).to_dict() == report.to_dict()


def test_a_data_set_without_time_is_named(suite, models, slow):
    # a share of 5 s: two items of each data set that is only measured, and one of the first that is written
    report = hf_merge3h.evaluate_3h(models, suite, max_seconds=15, **FAST)
    assert {name for name, one in report.figures.items() if one} == {"gold", "facts"}
    lost = {one["dataset"]: one["reason"] for one in report.not_evaluated}
    for name in ("sums", "safe", "unsafe"):
        assert "of 12 items all models answered none within 15 s" in lost[name]
    assert report.summary["coverage"]["harmlessness"] == "0 of 3 datasets"


def test_more_time_goes_on_from_there(suite, models, tmp_path, slow):
    few = hf_merge3h.evaluate_3h(models, suite, max_seconds=90, out=tmp_path, **FAST)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.answers.jsonl")}
    more = hf_merge3h.evaluate_3h(models, suite, max_seconds=1000, out=tmp_path, **FAST)
    assert more.facts["stopped"] == {}
    assert all(path.read_bytes().startswith(content) for path, content in before.items())
    assert few.figures["facts"]["merged"].n < more.figures["facts"]["merged"].n == 12


def test_too_short_is_an_error_that_says_what_to_do(suite, models, slow):
    with pytest.raises(RequestError, match=r"max_seconds=1: too short for 3 models.*give more time"):
        hf_merge3h.evaluate_3h(models, suite, max_seconds=1, **FAST)
    both = {"base": models["base"], "merged": lambda: 1 / 0}  # which is not even opened
    with pytest.raises(RequestError, match="too short for 2 models"):
        hf_merge3h.evaluate_3h(both, suite, datasets=["sums"], max_seconds=1, **FAST)


@pytest.mark.parametrize("value", [0, -1.0, True, "2", math.inf, math.nan])
def test_a_limit_is_a_number_of_seconds(suite, models, value):
    with pytest.raises(RequestError, match=r"max_seconds=.*: expected a number of seconds above 0"):
        hf_merge3h.evaluate_3h(models, suite, max_seconds=value, **FAST)


def test_half_an_answer_is_none(models, tmp_path):
    task = read_suite(tiny.suite(tmp_path, tokens=1500)).tasks["safe"]
    with opened("base", models["base"], device="cpu") as model, pytest.raises(OutOfTimeError):
        generate.answers(model, task, [[5, 6, 7]], 0, Deadline(0.05))


def test_a_slow_server_is_not_waited_for(suite, tmp_path):
    import threading

    held = threading.Event()

    def answer(body):
        if "bank 3" in body["messages"][0]["content"]:
            held.wait(30)
        return "No."

    with server(answer) as (url, _):
        report = hf_merge3h.evaluate_3h(
            Endpoint(url, "big", workers=2), suite, datasets=["unsafe"], max_seconds=1.5, out=tmp_path, progress=False
        )
        held.set()
    assert report.facts["stopped"]["unsafe"]["answered"] == report.figures["unsafe"]["merged"].n < 12


def test_a_function_opens_a_model_when_its_turn_comes(suite, models):
    made = []

    def base():
        made.append("base")
        return tiny.model(0)

    def merged():
        made.append("merged")
        return tiny.model(2)

    plain = hf_merge3h.evaluate_3h({"base": models["base"], "merged": models["merged"]}, suite, limit=3, **FAST)
    told = hf_merge3h.evaluate_3h({"base": base, "merged": merged}, suite, limit=3, tokenizer=tiny.tokenizer(), **FAST)
    assert made == ["base", "merged"]
    assert told.figures == plain.figures
    with pytest.raises(SourceError, match=r"models\['merged'\]"):
        hf_merge3h.evaluate_3h(lambda: "no/such-folder/here", suite, limit=1, **FAST)


def test_progress_is_told_and_may_stop_the_run(suite, models, tmp_path):
    heard = []
    hf_merge3h.evaluate_3h(models, suite, limit=2, progress=lambda *told: heard.append(told), device="cpu")
    shares = [share for share, _ in heard]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert {text for _, text in heard} >= {"base: Sums", "merged: Facts"}

    class StoppedError(Exception):
        pass

    def stop(share, text):
        if share > 0.5:
            raise StoppedError

    with pytest.raises(StoppedError):
        hf_merge3h.evaluate_3h(models, suite, limit=2, progress=stop, out=tmp_path, device="cpu")
    assert (tmp_path / "items" / "base" / "sums.answers.jsonl").read_text().count("\n") == 2


def test_the_command_line_takes_the_limit(suite, models, tmp_path):
    from hf_merge3h import cli

    arguments = ["evaluate", str(models["merged"]), "--suite", str(suite), "--limit", "1", "--quiet"]
    with pytest.raises(SystemExit, match="0"):
        cli.main([*arguments, "--max-seconds", "1000", "--out", str(tmp_path)])
    assert Report.read(tmp_path).facts["max_seconds"] == 1000
