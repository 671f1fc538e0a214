"""What `plan` tells of memory: each worker has a tensor in hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hf_merge3h.engine import workers
from hf_merge3h.engine.forecast import plan_facts, plan_text
from hf_merge3h.engine.steps import make_stream_plan
from hf_merge3h.engine.stream_plan import peak
from hf_merge3h.models.types import TensorSpec
from tests.engine.recipes import family, recipe


@pytest.mark.parametrize(("method", "grows"), [("ties", True), ("linear", True), ("tsv_merge", False)])
def test_memory_is_that_of_all_workers(method: str, grows: bool, tmp_path: Path, monkeypatch: Any) -> None:
    family(tmp_path)
    plan = make_stream_plan(recipe(tmp_path, method), device="cpu")
    largest = sorted(map(peak, plan.steps), reverse=True)
    told = []
    for cores in (1, 2, 4):
        monkeypatch.setattr(workers, "_cores", lambda cores=cores: cores)
        told.append(plan.peak_memory - (1 << 27))
    assert told == [sum(largest[: cores if grows else 1]) for cores in (1, 2, 4)]


def test_what_is_drawn_takes_a_bit_an_entry(tmp_path: Path) -> None:
    family(tmp_path)
    drawn, trimmed = (make_stream_plan(recipe(tmp_path, name), device="cpu").steps for name in ("dare_ties", "ties"))
    for one, other in zip(drawn, trimmed, strict=True):
        entries = one.group.numbers * len(one.inputs) if one.group else 0
        assert peak(one) - peak(other) == entries // 8


def test_a_plan_speaks_of_one_thing_as_of_one(tmp_path: Path) -> None:
    family(tmp_path)
    text = plan_text(make_stream_plan(recipe(tmp_path, "ties"), device="cpu"))
    assert "ties: 1 tensor of 50 x 16, 3 experts" in text
    assert text.splitlines()[-1].endswith("and less than 0.1 s, on cpu")
    assert "some 0 s" not in text


def test_measuring_and_hashing_take_their_time(tmp_path: Path) -> None:
    family(tmp_path)
    for method in ("linear", "ties", "tsv_merge"):
        plan = make_stream_plan(recipe(tmp_path, method), device="cpu")
        steps = [replace(step, spec=TensorSpec((4096, 4096), step.spec.dtype)) for step in plan.steps]
        large = replace(plan, steps=tuple(steps))
        with_both, plain = (plan_facts(large, diagnostics=each)["seconds"] for each in (True, False))
        assert plain < with_both <= 2.5 * plain
        assert plan_facts(large)["seconds"] == with_both
        assert sum(group["seconds"] for group in plan_facts(large)["groups"]) == pytest.approx(with_both, abs=0.2)
        assert f"some {plain:g} s, on cpu" in plan_text(large, diagnostics=False)
