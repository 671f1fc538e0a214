"""Steps are kept by content; what changes redoes what depends on it and nothing else."""

from __future__ import annotations

import json

import pytest

from hf_merge3h.errors import OutputError
from hf_merge3h.lab.comparison import graph as graphs
from hf_merge3h.lab.comparison.graph import Graph
from hf_merge3h.lab.comparison.work import DONE, FAILED, PARTIAL, Step


def chain(**changed):
    settings = {"a": 1, "b": 2, "c": 3, "d": 4} | changed
    inputs = {"a": (), "b": ("a",), "c": ("b",), "d": ()}
    return [Step(name, "questions", {"value": value}, inputs[name]) for name, value in settings.items()]


def finish(graph, *names):
    for name in names:
        folder = graph.folder(name)
        folder.mkdir(parents=True)
        (folder / DONE).write_text(json.dumps({"step": name, "seconds": 1.0, "peak_mb": 1.0}))


def words(graph):
    return {state.step.name: state.word for state in graph.states()}


def test_a_change_redoes_what_depends_on_it_alone(tmp_path):
    finish(Graph(chain(), tmp_path), "a", "b", "c", "d")
    assert set(words(Graph(chain(), tmp_path)).values()) == {"done"}
    assert words(Graph(chain(b=5), tmp_path)) == {"a": "done", "b": "open", "c": "open", "d": "done"}


def test_paths_are_no_part_of_a_key(tmp_path):
    here, there = (Graph([Step("a", "mix", {}, (), {"data": place})], tmp_path) for place in ("/here", "/there"))
    assert here.key("a") == there.key("a")


def test_what_needs_something_that_failed_is_blocked(tmp_path):
    graph = Graph(chain(), tmp_path)
    graph.folder("a").mkdir(parents=True)
    (graph.folder("a") / FAILED).write_text(json.dumps({"error": "no"}))
    assert words(graph) == {"a": "failed", "b": "blocked", "c": "blocked", "d": "open"}


def test_what_was_begun_is_told_apart_from_what_was_not(tmp_path):
    graph = Graph(chain(), tmp_path)
    (graph.folder("a") / PARTIAL).mkdir(parents=True)
    assert words(graph)["a"] == "begun"


def test_results_that_nobody_asks_for_are_named(tmp_path):
    old = Graph(chain(), tmp_path)
    finish(old, "a", "b", "c", "d")
    assert old.stale() == []
    assert Graph(chain(c=9), tmp_path).stale() == [old.folder("c")]


def test_a_broken_result_is_an_error_that_names_the_file(tmp_path):
    graph = Graph(chain(), tmp_path)
    finish(graph, "a")
    (graph.folder("a") / DONE).write_text("{")
    with pytest.raises(OutputError, match=r"step.json: broken.*delete its folder"):
        graph.states()


class Fake:
    """Stands in for a step's process: what begins ends when it is asked for, the last begun first."""

    begun: list[str]
    ends: list[str]

    def __init__(self, job, jobs):
        self.job = job
        Fake.begun.append(job.step.name)

    def end(self):
        Fake.ends.append(self.job.step.name)
        folder = self.job.out
        folder.mkdir(parents=True, exist_ok=True)
        if "luck" in self.job.settings:
            (folder / FAILED).write_text(json.dumps({"error": "out of luck", "seconds": 2.0}))
        else:
            (folder / DONE).write_text(json.dumps({"seconds": 1.0, "peak_mb": 1.0}))

    def stop(self):
        Fake.ends.append(f"{self.job.step.name} stopped")


@pytest.fixture
def fake(monkeypatch):
    Fake.begun, Fake.ends = [], []
    monkeypatch.setattr(graphs, "Work", Fake)
    monkeypatch.setattr(graphs, "ended", lambda running: [list(running)[-1]])
    return Fake


def test_only_what_is_chosen_and_what_it_needs_is_done(tmp_path, fake):
    told = []
    Graph(chain(), tmp_path).run(["b"], told.append)
    assert fake.begun == ["a", "b"]
    assert told == ["[1/2] a ...", "[1/2] a: 1 s", "[2/2] b ...", "[2/2] b: 1 s"]


def test_a_failure_is_told_and_stops_only_what_needs_it(tmp_path, fake):
    steps = chain()
    steps[1] = Step("b", "questions", {"luck": 0}, ("a",))
    graph = Graph(steps, tmp_path)
    told = []
    states = graph.run(list(graph.steps), told.append)
    assert [state.word for state in states] == ["done", "failed", "blocked", "done"]
    assert told[2:5] == [
        "[2/4] b ...",
        "[2/4] b: 2 s failed: out of luck",
        "[3/4] c: not run, for something that it reads failed",
    ]


def test_what_failed_before_is_tried_again_before_what_needs_it(tmp_path, fake):
    graph = Graph(chain(), tmp_path)
    graph.folder("a").mkdir(parents=True)
    (graph.folder("a") / FAILED).write_text(json.dumps({"error": "no"}))
    states = graph.run(["b"], lambda _: None)
    assert [state.word for state in states] == ["done", "done"]


def test_several_at_once_begin_only_when_what_they_read_is_done(tmp_path, fake):
    graph = Graph(chain(), tmp_path)
    graph.run(list(graph.steps), lambda _: None, jobs=3)
    assert fake.begun == ["a", "d", "b", "c"]
    assert fake.ends == ["d", "a", "b", "c"]


@pytest.mark.parametrize(("jobs", "begun"), [(1, "xyabc"), (2, "axybc")])
def test_where_several_are_done_at_once_the_longest_way_begins_first(tmp_path, fake, jobs, begun):
    steps = [Step("x", "questions", {}), Step("y", "questions", {}), *chain()[:3]]
    Graph(steps, tmp_path).run(["x", "y", "c"], lambda _: None, jobs=jobs)
    assert fake.begun == list(begun)


def test_no_more_at_once_than_asked(tmp_path, fake, monkeypatch):
    graph = Graph([Step(name, "questions", {}) for name in "abcde"], tmp_path)
    at_once = []

    def ended(running):
        at_once.append(len(running))
        return list(running)[:1]

    monkeypatch.setattr(graphs, "ended", ended)
    graph.run(list(graph.steps), lambda _: None, jobs=2)
    assert at_once == [2, 2, 2, 2, 1]
    assert fake.ends == list("abcde")


def test_an_interrupted_run_stops_all_that_it_began(tmp_path, fake, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(graphs, "ended", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Graph(chain(), tmp_path).run(["a", "d"], lambda _: None, jobs=2)
    assert fake.ends == ["a stopped", "d stopped"]


def test_results_that_were_whole_when_the_run_was_killed_are_kept(tmp_path):
    graph = Graph(chain(), tmp_path)
    folder = graph.folder("a")
    (folder / PARTIAL / "run").mkdir(parents=True)
    (folder / PARTIAL / "run" / "items").write_text("new")
    (folder / PARTIAL / DONE).write_text(json.dumps({"seconds": 3.0}))
    (folder / "moved").write_text("already")
    graph.run(["a"], lambda _: None)
    assert words(graph)["a"] == "done"
    assert (folder / "run" / "items").read_text() == "new"
    assert (folder / "moved").read_text() == "already"
    assert not (folder / PARTIAL).exists()
