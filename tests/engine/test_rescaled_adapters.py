"""Rescaling on adapters: by every door, merged factors are what the oracle makes of the dense matrices."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from hf_merge3h import get_method, merge_recipe
from tests.engine.models import ROLES, deltas, llama, quiet, three_adapters
from tests.engine.recipes import save, weights
from tests.oracles import ORACLES

METHODS = ("ties", "breadcrumbs", "breadcrumbs_ties")
OPTIONS = {"rescale": "l1", "density": 0.4}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, dict[str, dict[str, torch.Tensor]]]:
    """A base and three adapters of it on disk, and what each adapter changes, dense."""
    folder = tmp_path_factory.mktemp("rescaled")
    base = llama(tied=False)
    save(base, folder / "base")
    model = three_adapters(base)
    model.save_pretrained(folder, selected_adapters=list(ROLES))
    return folder, base, {role: deltas(model, role) for role in ROLES}


def by_the_oracle(method: str, changes: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    bound = get_method(method).bind(OPTIONS, len(ROLES))
    found = {}
    for name in changes[ROLES[0]]:
        vectors = torch.stack([changes[role][name].double() for role in ROLES])
        found[name] = ORACLES[method](vectors, [1.0] * len(ROLES), base=None, keys=None, **bound).float()
    return found


def agree(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name] - tensor).norm() <= 2e-5 * tensor.norm(), name


def recipe(folder: Path, method: str, experts: dict[str, Any]) -> dict[str, Any]:
    bound = {**get_method(method).bind(OPTIONS, len(ROLES)), "rescale": True}
    return {"merge_method": method, "base_model": str(folder / "base"), "parameters": bound, **experts}


@pytest.mark.parametrize("method", METHODS)
def test_factors_are_the_matrices_they_stand_for(method: str, place: Any) -> None:
    _, _, changes = place
    model = three_adapters(llama(tied=False))
    with quiet():
        model.merge_3h(list(ROLES), method=method, rank="exact", progress=False, **OPTIONS)
    agree(deltas(model, "merged"), by_the_oracle(method, changes))


@pytest.mark.parametrize("method", METHODS)
def test_into_a_live_model(method: str, place: Any) -> None:
    folder, base, changes = place
    model = copy.deepcopy(base)
    with quiet():
        model.merge_3h({role: str(folder / role) for role in ROLES}, method=method, progress=False, **OPTIONS)
    wanted = by_the_oracle(method, changes)
    agree({name: model.state_dict()[name] - base.state_dict()[name] for name in wanted}, wanted)


@pytest.mark.parametrize("method", METHODS)
def test_into_whole_weights_as_a_recipe_says(method: str, place: Any, tmp_path: Path) -> None:
    folder, base, changes = place
    models = [{"model": f"{folder / 'base'}+{folder / role}"} for role in ROLES]
    merge_recipe(recipe(folder, method, {"models": models}), tmp_path / "out", progress=False, device="cpu")
    wanted, before, after = by_the_oracle(method, changes), base.state_dict(), weights(tmp_path / "out")
    agree({name: after[name] - before[name] for name in wanted}, wanted)
    assert all(torch.equal(after[name], before[name]) for name in after.keys() - wanted.keys())


@pytest.mark.parametrize("method", METHODS)
def test_into_an_adapter_as_a_recipe_says(method: str, place: Any, tmp_path: Path) -> None:
    folder, base, _ = place
    given = recipe(folder, method, {"adapters": {role: str(folder / role) for role in ROLES}, "out": "adapter"})
    (tmp_path / "r.yaml").write_text(json.dumps(given))
    merge_recipe(tmp_path / "r.yaml", tmp_path / "out", progress=False, device="cpu")
    live = three_adapters(llama(tied=False))
    with quiet():
        live.merge_3h(list(ROLES), method=method, progress=False, **OPTIONS)
        made = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "out")
    agree(deltas(made, "default"), deltas(live, "merged"))
