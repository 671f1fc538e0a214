"""The pictures of a merge: their numbers, and what stands beside them."""

from __future__ import annotations

import html
import json
import re

import charts
import figures
import numpy as np
import places
import pytest
import views
from drawing import looks
from visits import Merge


def test_figures_are_those_of_the_engines_report(made):
    (party,) = made.manifest["diagnostics"]
    total = party["total"]
    np.testing.assert_allclose(charts.norms_of(made.tensors), [*total["norms"], total["merged_norm"]], rtol=1e-9)
    cosines = np.array(charts.cosines_of(made.tensors))
    np.testing.assert_allclose(cosines[:-1, :-1], total["cosines"], rtol=1e-9)
    np.testing.assert_allclose(cosines[-1, :-1], total["merged_cosines"], rtol=1e-9)
    assert charts.conflict_of(made.tensors) == pytest.approx(total["sign_conflict"])
    assert charts.survived_of(made.tensors) == pytest.approx(total["survived"])


def test_every_picture_has_a_caption_a_table_and_downloads(made):
    found = charts.charts_of(made)
    assert [chart.name for chart in found] == [
        "norms_by_layer", "norms_by_module", "cosines", "sign_conflict", "survived", "spectra",
    ]  # fmt: skip
    for chart in found:
        assert chart.rows
        shown = figures.figure(chart, 1)
        assert html.escape(chart.caption) in shown
        assert shown.count('class="download"') == 2
        assert "#0102" not in shown  # no stand-in colour is left
        assert "<table>" in shown
    assert [row[0] for row in found[0].rows] == [str(layer) for layer in range(30)]
    spectrum = next(iter(made.spectra.values()))
    assert len(spectrum["honesty"]) == 8
    assert spectrum["honesty"] == sorted(spectrum["honesty"], reverse=True)


def test_a_merge_without_a_base_says_so(made):
    alone = Merge(**{**vars(made), "roles": (), "tensors": (), "spectra": {}})
    assert charts.charts_of(alone) == []
    assert "no base model" in views.look(alone)


def test_spectra_are_those_of_the_multiplied_out_changes(made):
    import torch
    from safetensors.torch import load_file

    def dense(folder, name: str) -> torch.Tensor:
        config = json.loads((folder / "adapter_config.json").read_text())
        stored = load_file(folder / "adapter_model.safetensors")
        inside = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = (stored[f"{inside}.lora_{each}.weight"].double() for each in "AB")
        alphas = (config.get("alpha_pattern") or {}).items()
        module = name.removesuffix(".weight")
        alpha = next((value for key, value in alphas if re.match(rf"(.*\.)?({key})$", module)), config["lora_alpha"])
        rank = a.shape[0]
        return b @ a * (alpha / (rank**0.5 if config.get("use_rslora") else rank))

    name, found = next(iter(made.spectra.items()))
    for who, folder in (("honesty", places.shipped()["shipped:honest"]), ("merged", made.folder)):
        expected = torch.linalg.svdvals(dense(folder, name))[: len(found[who])]
        np.testing.assert_allclose(found[who], expected, atol=1e-6 * float(expected[0]))


def test_models_look_the_same_in_all_pictures():
    assert looks(["harmlessness", "helpfulness", "honesty", "merged"]) == {
        "harmlessness": 3, "helpfulness": 1, "honesty": 2, "merged": 0,
    }  # fmt: skip
    assert looks(["base", "code", "honesty", "merged"]) == {"base": 0, "code": 1, "honesty": 2, "merged": 0}
    many = looks([f"expert {n}" for n in range(6)])
    assert [many[f"expert {n}"] for n in range(6)] == [0, 1, 2, 3, 0, 1]
