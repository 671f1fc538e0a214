"""Tuning: one merge, moved along its change, is the merge at any scale; the search finds what recovers most."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from hf_merge3h.lab.comparison.actions import ACTIONS
from hf_merge3h.lab.comparison.config import Variant
from hf_merge3h.lab.comparison.measuring import live_base, merged
from hf_merge3h.lab.comparison.reading import read_lab
from hf_merge3h.lab.comparison.steps import graph_of
from hf_merge3h.lab.comparison.tuning import TRIALS, along, change_of, parameter_of
from hf_merge3h.lab.comparison.work import Job, Step
from hf_merge3h.registry import list_methods
from tests.evaluation import tiny

from . import small

SCALED = sorted(record.name for record in list_methods() if parameter_of(Variant(record.name)))


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    place = tmp_path_factory.mktemp("tuned")
    return {role: str(tiny.folder(place / role, seed)) for seed, role in enumerate(("base", *small.ROLES))}


@pytest.mark.parametrize("method", SCALED)
def test_a_scale_is_a_multiple_of_the_merge_at_scale_1(method, experts, tmp_path):
    variant = asdict(Variant(method, {"scale": 0.7}))
    settings = {
        "experts": {role: {"given": role} for role in small.ROLES}, "seed": 3, "parameter": "scale", "variant": variant,
    }  # fmt: skip
    job = Job(Step("tune", "tune", settings, (), experts), {}, tmp_path)
    moved = dict(along(live_base(job), change_of(job), 0.7).named_parameters())
    model, _ = merged(job, variant)
    base = dict(live_base(job).named_parameters())
    for name, tensor in model.named_parameters():
        size = (tensor - base[name]).norm().clamp(min=1e-3)
        assert (moved[name] - tensor).norm() <= 1e-5 * size + 1e-5, name
    assert any(not torch.equal(moved[name], base[name]) for name in base)


def test_the_search_keeps_all_trials_and_the_best_and_goes_on_where_it_was_stopped(tmp_path):
    evaluation = {"test": "suite/tiny.yaml", "development": "suite/tiny.yaml", "limit": 6, "datasets": ["gold"]}
    file = small.lab(
        tmp_path, methods={"task_arithmetic": {}}, evaluation=evaluation,
        training={"full": {"steps": 12, "batch_size": 4, "learning_rate": 3e-3}},
        tuning={"trials": 3, "limit": 4, "low": 0.5, "high": 1.5},
    )  # fmt: skip
    graph = graph_of(read_lab(file), tmp_path / "out")
    search, test = "tune/static/full/task_arithmetic", "measure/test/static/full/tuned/task_arithmetic"
    small.do(graph, [name for name in graph.steps if name in graph._needed([search])])
    trials = json.loads((graph.folder(search) / TRIALS).read_text())
    best = json.loads((graph.folder(search) / "best.json").read_text())
    assert len(trials) == 3
    assert best == max(trials, key=lambda one: one["balance"])
    assert all(0.5 <= one["parameters"]["scale"] <= 1.5 for one in trials)
    (graph.folder(search) / TRIALS).write_text(json.dumps(trials[:2]))
    step = graph.steps[search]
    ACTIONS["tune"](Job(step, {each: graph.folder(each) for each in step.inputs}, graph.folder(search)))
    assert json.loads((graph.folder(search) / TRIALS).read_text()) == trials  # as if it had not been stopped
    small.do(graph, [test])
    told = json.loads((graph.folder(test) / "step.json").read_text())
    assert told["variant"]["parameters"] == json.loads((graph.folder(search) / "best.json").read_text())["parameters"]
