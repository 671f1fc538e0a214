"""A suite as tasks of lm-evaluation-harness: what is written, read as the harness reads it."""

from __future__ import annotations

import importlib.util
import json

import jinja2
import pytest
import yaml

from hf_merge3h import cli
from hf_merge3h.errors import RequestError, SourceError
from hf_merge3h.evaluation.export import export_lm_eval
from hf_merge3h.evaluation.generate import prompt_text
from hf_merge3h.evaluation.items import ask, make_items, select
from hf_merge3h.evaluation.models import opened
from hf_merge3h.evaluation.sources import load
from hf_merge3h.evaluation.suite import read_suite

from . import tiny


class Loader(yaml.SafeLoader):
    """As the harness' own: a function's name for the function."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def read(path):
    return yaml.load(path.read_text(), Loader)


def documents(folder, name):
    """What `datasets` makes of the records."""
    import datasets

    files = read(folder / f"merge3h_{name}.yaml")["dataset_kwargs"]["data_files"]
    return datasets.load_dataset("json", data_files=files, cache_dir=str(folder.parent / "cache"))["test"]


def scoring(folder):
    spec = importlib.util.spec_from_file_location("exported_scoring", folder / "scoring.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def exported(suite, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "tasks"
    return folder, export_lm_eval(suite, folder, limit=5)


def test_tasks_and_what_has_no_counterpart(exported):
    folder, done = exported
    names = [f"merge3h_{name}{ending}" for name in ("sums", "facts", "safe", "unsafe") for ending in ("", "_plain")]
    assert done.tasks == names
    assert done.left_out == {"gold": "a mean log-likelihood a token is no figure there", "judged": "needs a judge"}
    assert read(folder / "merge3h.yaml") == {"group": "merge3h", "task": names[::2]}
    assert read(folder / "merge3h_plain.yaml") == {"group": "merge3h_plain", "task": names[1::2]}
    assert all(read(folder / f"{name}.yaml")["task"] == name for name in names)
    readme = (folder / "README.md").read_text()
    assert "--include_path" in readme
    assert "`judged`: needs a judge" in readme


@pytest.mark.parametrize("name", ["sums", "facts", "safe"])
def test_the_harness_puts_the_same_prompts_about_the_same_items(exported, suite, tmp_path, name):
    folder, _ = exported
    task = read_suite(suite).tasks[name]
    items = select(make_items(task, load(task, read_suite(suite)).records), 5, 0)
    rows = documents(folder, name)
    with opened("m", tiny.folder(tmp_path, chat=False), device="cpu") as model:
        for ending, prompt in (
            ("", lambda item: ask(task, item)), ("_plain", lambda item: prompt_text(task, ask(task, item), model))
        ):  # fmt: skip
            template = jinja2.Template(read(folder / f"merge3h_{name}{ending}.yaml")["doc_to_text"])
            assert [template.render(**row) for row in rows] == [prompt(item) for item in items]


def test_scores_are_those_of_our_metrics(exported):
    folder, _ = exported
    module = scoring(folder)
    facts = documents(folder, "facts")
    told = [module.score_facts(row, [(-1.0, False), (-2.0, False), (-3.0, True)]) for row in facts]
    assert [one["mc1"] for one in told] == [float(row["choices"]["labels"][0]) for row in facts]
    safe = documents(folder, "safe")[0]
    assert module.score_safe(safe, ["I can't help with that."])["over_refusal_rate"] == 1.0
    assert set(module.score_safe(safe, ["Use kill."])) == {
        metric["metric"] for metric in read(folder / "merge3h_safe.yaml")["metric_list"]
    }


def test_gsm8k_and_ifeval_are_scored_by_the_harness_itself(exported, tmp_path):
    config = read(exported[0] / "merge3h_sums.yaml")
    assert [one["name"] for one in config["filter_list"]] == ["strict-match", "flexible-extract"]
    assert "process_results" not in config
    done = export_lm_eval("3h-offline", tmp_path / "tasks", datasets=["instructions", "safe_lookalikes"])
    assert len(done.tasks) == 4
    ours = read(tmp_path / "tasks" / "merge3h_instructions.yaml")
    assert ours["process_results"] == "lm_eval.tasks.ifeval.utils.process_results"
    assert len(documents(tmp_path / "tasks", "instructions")) == 24


def test_sets_on_the_hub_are_named_with_their_commit(tmp_path):
    done = export_lm_eval("3h", tmp_path / "tasks", datasets=["xstest_safe", "math", "mbpp", "salad_bench"])
    assert list(done.left_out) == ["salad_bench"]
    config = read(tmp_path / "tasks" / "merge3h_xstest_safe.yaml")
    assert (config["dataset_path"], config["test_split"]) == ("walledai/XSTest", "test")
    assert len(config["dataset_kwargs"]["revision"]) == 40
    assert config["process_docs"] == "scoring.keep_xstest_safe"
    kept = scoring(tmp_path / "tasks").keep_xstest_safe(Rows([{"label": "safe"}, {"label": "unsafe"}]))
    assert kept == [{"label": "safe"}]
    assert read(tmp_path / "tasks" / "merge3h_math.yaml")["doc_to_text"].endswith(r"Put the final answer in \boxed{}.")
    assert "{{test_list[0]}}" in read(tmp_path / "tasks" / "merge3h_mbpp.yaml")["doc_to_text"]
    assert not (tmp_path / "tasks" / "records").exists()


class Rows(list):
    def filter(self, keep):
        return [row for row in self if keep(row)]


def test_mistakes_leave_nothing_behind(suite, tmp_path, capsys):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(RequestError, match="a new or empty folder"):
        export_lm_eval(suite, tmp_path / "used")
    with pytest.raises(RequestError, match="did you mean 'sums'"):
        export_lm_eval(suite, tmp_path / "new", datasets=["sum"])
    with pytest.raises(SourceError, match="no such file"):
        export_lm_eval(suite, tmp_path / "new", data={"facts": tmp_path / "none.jsonl"})
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "model", "--export-lm-eval", str(tmp_path / "new")])
    assert "no model" in capsys.readouterr().err


def test_the_command_line(suite, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(
            ["evaluate", "--suite", str(suite), "--export-lm-eval", str(tmp_path / "t"), "--datasets", "sums,judged"]
        )
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert "2 tasks" in shown
    assert "judged is not among them: needs a judge" in shown
    assert json.loads((tmp_path / "t" / "records" / "sums.jsonl").read_text().splitlines()[0])["question"]
