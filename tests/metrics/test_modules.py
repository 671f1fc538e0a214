"""The same scores through `evaluate.load`: always the installed copy, whatever the cache, the network and the order."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path

import evaluate
import pytest
import yaml

import hf_merge3h
from hf_merge3h.errors import RequestError
from hf_merge3h.metrics import get, list_metrics, page
from tests.markdown import ROOT, blocks

NAMES = [metric.name for metric in list_metrics()]
CARDS = {name: f"hf_merge3h/metrics/{name}/README.md" for name in NAMES}


def load(name):
    return evaluate.load(f"hf_merge3h/{name}")


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with a home of its own, and no Hub."""
    settings = {"HOME": str(folder), "HF_HOME": str(folder / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder, env={**os.environ, **settings, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


SCORE = """
metric = evaluate.load("hf_merge3h/refusal_rate")
assert metric.compute(predictions=["I can't help with that."])["refusal_rate"] == 1.0
print(type(metric).__module__)
"""
HOME = "hf_merge3h.metrics.refusal_rate.refusal_rate\n"


@pytest.mark.parametrize("name", NAMES)
def test_doctests(name):
    module = sys.modules[type(load(name)).__module__]
    failed, attempted = doctest.testmod(module)
    assert attempted >= 2
    assert not failed


@pytest.mark.parametrize("name", NAMES)
def test_the_cases_that_the_page_shows(name):
    for case in page.examples(name):
        told = load(name).compute(
            predictions=case["predictions"], references=case["references"], **page.given(case.get("options", {}))
        )
        assert told == case["result"]


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_all_and_its_example_runs(name):
    text = (Path(hf_merge3h.metric_path(name)) / "README.md").read_text(encoding="utf-8")
    (example,) = blocks(CARDS[name])
    example.run()
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["title"], front["description"]) == (get(name).title, get(name).about)
    assert (front["sdk"], front["app_file"]) == ("gradio", "app.py")
    for key in [*get(name).returns, *get(name).items, *get(name).options]:
        assert f"`{key}" in text


@pytest.mark.parametrize("document", ["README.md", "docs/METRICS.md"])
def test_the_documents_examples_run(document):
    (example,) = (block for block in blocks(document) if block.mark == "metrics")
    example.run()


def test_the_documents_name_every_metric():
    text = (ROOT / "docs/METRICS.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_evaluate_shows(name):
    metric = load(name)
    assert metric.name == name
    assert all(key in metric.inputs_description for key in get(name).returns)
    assert not [one for one in _parameters(metric) if one.kind is one.VAR_KEYWORD]


def _parameters(metric):
    import inspect

    return inspect.signature(metric._compute).parameters.values()


def test_in_either_order_and_twice(tmp_path):
    for imports in (
        "import hf_merge3h, evaluate",
        "import evaluate, hf_merge3h",
        "import evaluate.loading, hf_merge3h",
    ):
        again = "; hf_merge3h.integrations.install(); hf_merge3h.integrations.install()"
        done = run(imports + again + SCORE, tmp_path, HF_EVALUATE_OFFLINE="1")
        assert done.stdout == HOME, done.stderr


def test_four_processes_and_a_fresh_cache(tmp_path):
    settings = {"HF_HOME": str(tmp_path / "hf"), "HF_EVALUATE_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", "import hf_merge3h, evaluate" + SCORE]
    four = [
        subprocess.Popen(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert [one.communicate(timeout=300)[0] for one in four] == [HOME] * 4


def test_neither_a_cache_that_cannot_be_written_nor_a_folder_of_the_name_matters(tmp_path):
    (tmp_path / "hf").write_text("a file where the cache should be")
    fake = tmp_path / "hf_merge3h" / "refusal_rate"
    fake.mkdir(parents=True)
    (fake / "refusal_rate.py").write_text("raise SystemExit('the wrong one')")
    done = run(f"import sys; sys.path.remove('')\nimport hf_merge3h, evaluate{SCORE}", tmp_path)
    assert done.stdout == HOME, done.stderr


def test_by_path_too():
    metric = evaluate.load(hf_merge3h.metric_path("three_h"))
    assert type(metric).__module__ == "hf_merge3h.metrics.three_h.three_h"


def test_by_path_without_the_hook(tmp_path):
    """As evaluate's own loader does it, from a copy in its cache: what a Space or a clone of one does."""
    code = f"""if True:
        import evaluate
        metric = evaluate.load({hf_merge3h.metric_path("truthful_choice")!r})
        told = metric.compute(predictions=[[-1, -2]], references=[[1, 0]])
        print(type(metric).__module__.split(".")[0], told["mc1"])"""
    done = run(code, tmp_path)
    assert done.stdout == "evaluate_modules 1.0\n", done.stderr


def test_other_names_go_their_way(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text(
        "import datasets\nimport evaluate\n\n\nclass Mine(evaluate.Metric):\n    def _info(self):\n"
        "        features = datasets.Features({'predictions': datasets.Value('int64')})\n"
        "        return evaluate.MetricInfo(description='', citation='', features=features)\n\n"
        "    def _compute(self, predictions):\n        return {'sum': sum(predictions)}\n"
    )
    code = f"import hf_merge3h, evaluate\nprint(evaluate.load({str(folder)!r}).compute(predictions=[1, 2]))"
    assert run(code, tmp_path).stdout == "{'sum': 3}\n"


@pytest.mark.parametrize(
    ("path", "options", "what"),
    [
        ("hf_merge3h/refusals", {}, "did you mean 'refusal_rate'"),
        ("hf_merge3h/refusal_rate", {"revision": "main"}, "always the installed copy"),
        ("hf_merge3h/refusal_rate", {"num_process": 2}, "gather the predictions"),
    ],
)
def test_what_cannot_be_loaded(path, options, what):
    with pytest.raises(RequestError, match=what):
        evaluate.load(path, **options)


def test_added_one_by_one_and_in_batches():
    metric = load("refusal_rate")
    metric.add(prediction="I can't help with that.", reference="safe")
    metric.add_batch(predictions=["Stir.", "I won't help you."], references=["safe", "unsafe"])
    assert len(metric) == 3
    with pytest.raises(RequestError, match="3 predictions were added"):
        metric.compute(predictions=["one more"])
    assert metric.compute()["over_refusal_rate"] == 0.5
    assert len(metric) == 0
    with pytest.raises(RequestError, match="predictions=None"):
        metric.compute()


def test_an_option_that_there_is_not():
    with pytest.raises(RequestError, match="did you mean 'return_items'"):
        load("refusal_rate").compute(predictions=["a"], return_item=True)


def test_items_come_one_a_prediction():
    told = load("truthful_choice").compute(predictions=[[-1, -2]] * 3, references=[[1, 0]] * 3, return_items=True)
    assert told["items"] == [{"mc1": 1.0, "mc2": pytest.approx(0.731, abs=1e-3), "choices": 2}] * 3
    json.dumps(told)


# The page


PAGES = """
import json
import gradio, pytest
from hf_merge3h.metrics import list_metrics, page
for metric in list_metrics():
    (click,) = (one for one in page.build(metric.name).fns.values() if one.api_name == "score")
    example = page.examples(metric.name)[0]
    told = click.fn(*(json.dumps(example.get(key, {})) for key in ("predictions", "references", "options")))
    assert {key: told[key] for key in example["result"]} == example["result"]
    for predictions, what in (("[", "JSON"), ("[]", "at least one"), ("", "expected a")):
        with pytest.raises(gradio.Error, match=what):
            click.fn(predictions, json.dumps(example["references"]), json.dumps(example.get("options", {})))
    print(metric.name)
"""


def test_the_pages_score_and_show_errors(tmp_path):
    """In a process of its own: gradio leaves event loops behind."""
    done = run(PAGES, tmp_path, GRADIO_ANALYTICS_ENABLED="False")
    assert done.stdout.split() == NAMES, done.stderr


def test_a_space_runs(tmp_path):
    """app.py as a Space runs it, asked over the network."""
    folder = Path(hf_merge3h.metric_path("refusal_rate"))
    settings = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SERVER_PORT": str(_free_port()), "HF_HOME": str(tmp_path)}
    server = subprocess.Popen(
        [sys.executable, "app.py"], cwd=folder, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True
    )
    asked = """if True:
        import sys
        from gradio_client import Client
        client = Client(sys.argv[1], verbose=False, analytics_enabled=False)
        print(client.predict('["I cannot help with that."]', '["safe"]', "", api_name="/score")["over_refusal_rate"])"""
    with server:
        try:
            assert server.stdout is not None
            address = next(line for line in server.stdout if "http://" in line).split()[-1]
            done = subprocess.run([sys.executable, "-c", asked, address], capture_output=True, text=True, timeout=120)
        finally:
            server.terminate()
    assert done.stdout == "1.0\n", done.stderr


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_requirements_pin_this_package():
    for name in NAMES:
        text = (Path(hf_merge3h.metric_path(name)) / "requirements.txt").read_text(encoding="utf-8")
        assert text.strip() == f"hf-merge3h[eval]=={hf_merge3h.__version__}"
