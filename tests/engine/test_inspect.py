"""What is this model made of? Of merges whose making is known."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.optimize import nnls

import hf_merge3h
from hf_merge3h.engine import inspect as module
from hf_merge3h.engine.inspect import inspect, nonnegative
from hf_merge3h.errors import RequestError, SourceError
from tests.engine.models import ROLES, llama, peft_model, quiet
from tests.engine.recipes import family, save


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    family(folder)
    return folder


def _merge(made: Path, out: Path, weights: tuple[float, ...], method: str = "task_arithmetic") -> Path:
    models = [{"model": str(made / f"e{n}"), "parameters": {"weight": each}} for n, each in enumerate(weights, start=1)]
    roles = list(ROLES[: len(weights)])
    recipe = {"merge_method": method, "base_model": str(made / "base"), "roles": roles, "models": models}
    hf_merge3h.merge_recipe(recipe, out, progress=False)
    return out


def _experts(made: Path) -> list[str]:
    return [str(made / f"e{n}") for n in (1, 2, 3)]


def test_a_sum_is_taken_apart(made: Path, tmp_path: Path) -> None:
    out = _merge(made, tmp_path / "out", (0.5, 0.25))
    (out / "merge3h.json").unlink()  # somebody else's merge
    found = inspect(out, str(made / "base"), _experts(made))
    assert found.total.parts == pytest.approx((0.5, 0.25, 0.0), abs=1e-4)
    assert found.total.residual < 1e-3
    for block in found.blocks:
        assert block.parts == pytest.approx((0.5, 0.25, 0.0), abs=1e-3)
    assert "0.5 of e1 + 0.25 of e2" in str(found)
    assert found.skipped == ()


def test_figures_by_hand(made: Path, tmp_path: Path) -> None:
    out = _merge(made, tmp_path / "out", (1.0, 1.0), "ties")
    found = inspect(out, str(made / "base"), _experts(made))
    states = [module.open_source(str(each), (), "x", module.HubOptions()) for each in (made / "base", out, made / "e1")]
    before, after, expert = (
        torch.cat([model.load(name).flatten().double() for name in sorted(states[0].specs)]) for model in states
    )
    delta, other = after - before, expert - before
    assert found.total.norm == pytest.approx(float(delta.norm()), rel=1e-4)
    assert found.total.relative == pytest.approx(float(delta.norm() / before.norm()), rel=1e-4)
    assert found.total.unchanged == pytest.approx(float((delta == 0).double().mean()))
    assert found.total.cosines[0] == pytest.approx(float(torch.cosine_similarity(delta, other, 0)), abs=1e-4)
    assert found.total.numbers == len(delta)


def test_the_manifest_tells_what_to_compare_with(made: Path, tmp_path: Path) -> None:
    found = inspect(_merge(made, tmp_path / "out", (0.5, 0.5, 0.5)))
    assert found.roles == ROLES
    assert found.total.parts == pytest.approx((0.5, 0.5, 0.5), abs=1e-4)


def test_what_none_of_them_explains(made: Path) -> None:
    found = inspect(made / "e3", str(made / "base"), _experts(made)[:2])
    assert found.total.residual > 0.9
    assert "something else is in it" in found.summary()


def test_the_base_itself(made: Path) -> None:
    found = inspect(made / "base", str(made / "base"), _experts(made))
    assert (found.total.norm, found.total.unchanged) == (0.0, 1.0)
    assert found.summary() == "it equals the base"
    assert found.to_dict()["total"]["cosines"] == [None, None, None]


def test_rank_and_energy_of_an_adapter(made: Path, tmp_path: Path) -> None:
    model = peft_model(llama(), {"one": {"r": 3}})
    with quiet():
        model.save_pretrained(tmp_path)
    found = inspect(tmp_path / "one", str(made / "base"))
    layer = next(block for block in found.blocks if block.name == "model.layers.0")
    assert layer.rank is not None
    assert 0 < layer.rank <= 3
    assert layer.energy == pytest.approx(1.0, abs=1e-5)
    assert found.roles == ()


def test_the_sketch_finds_the_leading_energy() -> None:
    torch.manual_seed(0)
    delta = torch.randn(90, 70) * (torch.arange(70) < 50)
    rank, energy = module._spectrum("w", delta, torch.zeros(90, 70))
    values = torch.linalg.svdvals(delta.double())
    assert rank is None  # 50 directions are more than the sketch has
    assert energy == pytest.approx(float(values[:32].square().sum() / values.square().sum()), rel=0.02)


def test_models_that_do_not_fit(made: Path, tmp_path: Path) -> None:
    other = save(llama(vocabulary=40), tmp_path / "other")
    found = inspect(other, str(made / "base"))
    assert any("another shape" in each for each in found.skipped)
    with pytest.raises(SourceError):
        inspect(tmp_path / "none", str(made / "base"))
    with pytest.raises(RequestError, match="BASE EXPERT"):
        inspect(other)


@given(count=st.integers(1, 14), seed=st.integers(0, 1000))
def test_parts_are_those_of_scipy(count: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    experts, target = draw.standard_normal((40, count)), draw.standard_normal(40)
    expected, left = nnls(experts, target)
    found = nonnegative(torch.tensor(experts.T @ experts), torch.tensor(experts.T @ target)).numpy()
    assert np.linalg.norm(experts @ found - target) == pytest.approx(left, rel=1e-6)
    assert found == pytest.approx(expected, abs=1e-5)
