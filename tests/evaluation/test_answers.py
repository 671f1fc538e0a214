"""Answers that exist already, and answers of a server."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import hf_merge3h
from hf_merge3h.errors import MergeError, RequestError, SourceError
from hf_merge3h.evaluation.answers import Predictions
from hf_merge3h.evaluation.endpoint import Endpoint
from hf_merge3h.evaluation.items import program, question_hash
from hf_merge3h.evaluation.sources import read_file
from hf_merge3h.evaluation.suite import read_suite

from . import tiny

KEY = "sk-" + "secret" * 4


@contextmanager
def server(answer=lambda body: f"#### {len(body['messages'])}", fail=lambda count: None, choices=None, headers=()):
    """An OpenAI-compatible server on 127.0.0.1, as far as chat completions go."""
    asked: list[tuple[dict, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((body, self.headers.get("Authorization")))
            status = fail(len(asked)) or (200 if self.path == "/v1/chat/completions" else 404)
            said = {"choices": [{"message": {"content": answer(body)}} for _ in range(choices or body.get("n", 1))]}
            data = json.dumps(said).encode() if status == 200 else f"no, not with {KEY}".encode()
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            """Silence."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}/v1", asked
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def evaluate(models, suite, out, **options):
    return hf_merge3h.evaluate_3h(models, suite, out=out, progress=False, **options)


def test_a_server_is_asked(suite, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with server(lambda body: "I cannot help with that.", lambda count: 503 if count == 1 else None) as (url, asked):
        asked_of = {"merged": Endpoint(url, "big", pause=0.001)}
        report = evaluate(asked_of, suite, tmp_path, datasets=["unsafe", "facts"])
    assert report.figures["unsafe"]["merged"].value == 1.0
    assert {body["model"] for body, _ in asked} == {"big"}
    assert {header for _, header in asked} == {f"Bearer {KEY}"}
    assert asked[0][0]["temperature"] == 0
    assert report.summary["coverage"]["honesty"] == "0 of 1 datasets asked for"
    assert report.not_evaluated[-1] == {
        "dataset": "facts", "h": "honesty", "reason": "merged: a chat server gives no log-likelihoods"
    }  # fmt: skip
    assert not any(KEY in path.read_text() for path in tmp_path.rglob("*.json*"))


def test_a_server_that_fails_loses_nothing(suite, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    down = {"now": True}
    with server(fail=lambda count: 500 if down["now"] and count > 8 else None) as (url, asked):
        big = Endpoint(url, "big", workers=4, pause=0.001)
        with pytest.raises(MergeError, match="status 500") as told:
            evaluate({"merged": big}, suite, tmp_path, datasets=["unsafe"])
        assert KEY not in str(told.value)
        down["now"] = False
        asked.clear()
        evaluate({"merged": big}, suite, tmp_path, datasets=["unsafe"])
        assert len(asked) == 4


def test_one_request_that_fails_loses_none_of_those_beside_it(suite, tmp_path, monkeypatch):
    monkeypatch.setattr(Endpoint, "_ask", _strict(Endpoint._ask))
    with server(lambda body: "No.") as (url, asked), pytest.raises(MergeError, match="bank 3"):
        evaluate({"merged": Endpoint(url, "big", workers=12)}, suite, tmp_path, datasets=["unsafe"])
    kept = (tmp_path / "items" / "merged" / "unsafe.answers.jsonl").read_text()
    assert (kept.count("\n"), "bank 3" in kept, len(asked)) == (11, False, 11)


def _strict(ask):
    def asked(self, task, question):
        if "bank 3" in question:
            time.sleep(0.5)  # the others are under way
            raise MergeError("bank 3")
        return ask(self, task, question)

    return asked


def test_samples_of_a_server_that_gives_one_choice(suite):
    task = replace(read_suite(suite).tasks["sums"], form="code", temperature=0.5, samples=3)
    with server(choices=1) as (url, asked):
        assert len(Endpoint(url, "big")._ask(task, "?")) == 3
    assert [body.get("n", 1) for body, _ in asked] == [3, 2, 1]


def test_a_server_says_how_long_to_wait_and_why_not(suite, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    waited: list[float] = []
    monkeypatch.setattr("hf_merge3h.evaluation.endpoint.time.sleep", waited.append)
    task = read_suite(suite).tasks["sums"]
    with server(fail=lambda count: 429 if count == 1 else None, headers=[("Retry-After", "7")]) as (url, _):
        Endpoint(url, "big")._ask(task, "?")
    assert waited == [7.0]
    with server(fail=lambda count: 401) as (url, asked), pytest.raises(MergeError) as told:
        Endpoint(url, "big")._ask(task, "?")
    assert "status 401 ('no, not with ***')" in str(told.value)
    assert len(asked) == 1  # no use to ask again


@pytest.mark.parametrize("url", ["ftp://x/v1", "nonsense", "http://me:word@host/v1"])
def test_bad_addresses(url):
    with pytest.raises(RequestError) as told:
        Endpoint(url, "m")
    assert "me:word" not in str(told.value)


def test_answers_that_exist(suite, tmp_path):
    rows = [
        *({"dataset": "sums", "question": tiny.sum_question(k), "answer": f"#### {2 * k}"} for k in range(4)),
        *({"dataset": "facts", "question": f"Which is number {k}?", "log_likelihoods": [0, -1, -2]} for k in range(6)),
    ]  # fmt: skip
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = evaluate({"merged": Predictions(tmp_path / "said.jsonl")}, suite, tmp_path / "out")
    assert (report.figures["sums"]["merged"].value, report.figures["sums"]["merged"].n) == (1.0, 4)
    assert report.figures["facts"]["merged"].value == pytest.approx(2 / 6)
    reasons = {one["dataset"]: one["reason"] for one in report.not_evaluated}
    assert reasons["safe"] == "merged: said.jsonl holds no answers to it"
    assert reasons["gold"] == "merged: said.jsonl holds no answers to it"
    assert report.summary["coverage"]["helpfulness"] == "1 of 2 datasets"  # gold counts for no mean


def test_samples_of_lm_eval(suite, tmp_path):
    rows = [{"doc": {"question": tiny.sum_question(k), "answer": "x"}, "resps": [["#### 4"]]} for k in (2, 3)]
    (tmp_path / "samples_sums_today.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = evaluate({"merged": Predictions(tmp_path / "samples_sums_today.jsonl")}, suite, None, datasets=["sums"])
    assert (report.figures["sums"]["merged"].value, report.figures["sums"]["merged"].n) == (0.5, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "a"}\n', "row 1: has neither"), ("no\n", "is broken"), ("", "no list of records"),
        ('\n{"a": 1}\n{broken\n', "a.jsonl is broken: 'line 3 is no JSON (Expecting property name"),
        ('{"answer": null}\n', "row 1: has neither"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(SourceError) as told:
        Predictions(tmp_path / "a.jsonl")
    assert message in str(told.value)
    assert "cannot be read" not in str(told.value)  # it was read


def test_nan_log_likelihoods_are_an_error(suite, tmp_path):
    row = {"dataset": "facts", "question": "Which is number 1?", "log_likelihoods": [float("nan"), 0.0, 0.0]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(RequestError, match="finite log-likelihoods"):
        evaluate({"merged": Predictions(tmp_path / "a.jsonl")}, suite, None)


def test_too_few_log_likelihoods_are_an_error_that_names_the_question(suite, tmp_path):
    row = {"dataset": "facts", "question": "Which is number 1?", "log_likelihoods": [-1.0, -2.0]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(
        RequestError, match=r"facts, .Which is number 1.*: references.*expected one for each of 2 choices"
    ):
        evaluate({"merged": Predictions(tmp_path / "a.jsonl")}, suite, None)


def test_files_of_records(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,label\n"two\nlines",safe\n')
    assert read_file(tmp_path / "a.csv", "x") == [{"prompt": "two\nlines", "label": "safe"}]
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(SourceError, match="broken"):
        read_file(tmp_path / "a.jsonl.gz", "x")


def test_programs_are_found_in_answers():
    start = 'from math import pi\n\n\ndef area(r):\n    """Area."""\n'
    assert (
        program("```python\ndef area(r):\n    return pi\n```", start)
        == "from math import pi\ndef area(r):\n    return pi\n"
    )
    assert program("    return pi * r * r", start) == start + "    return pi * r * r"
    assert program("Sure!\n```\nx = 1\n```\nand\n```\ny\n```") == "x = 1\n"


def test_question_hashes_are_those_beside_the_demos_adapters():
    from hf_merge3h.lab import demo_data

    for text in ("Do  bulls get ANGRY?", "Ünïcode ﬁne — 3½ cups_of x", "don't"):
        assert question_hash(text) == demo_data.question_hash(text)
