"""Tails and sparsity of changes, against what is known of some distributions."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from hf_merge3h.errors import SourceError
from hf_merge3h.lab import tails


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_normal_matrix_measures_as_the_normal_distribution_does():
    told = tails.measure(normal(400, 300))
    # the scale's median is over what is above 0.1 rms, which moves 3 standard deviations a little outwards
    assert 0.0005 < told["beyond"] < 0.003
    assert told["kurtosis"] == pytest.approx(0, abs=0.1)
    assert told["sparsity"] == pytest.approx(0.0797, abs=0.003)


def test_planted_entries_and_zeros_are_seen():
    matrix = normal(400, 300)
    heavy = matrix + 20 * (torch.rand(matrix.shape, generator=torch.Generator().manual_seed(1)) < 0.01)
    assert tails.measure(heavy)["kurtosis"] > 30
    assert tails.measure(heavy)["beyond"] == pytest.approx(0.01, abs=0.003)
    assert tails.measure(matrix * (torch.arange(400) < 100)[:, None])["sparsity"] > 0.75


def test_a_random_matrix_has_the_spectrum_and_nothing_else():
    matrix = normal(60, 4) @ normal(4, 40, seed=1)
    other = tails.random_of_spectrum(matrix, 0)
    torch.testing.assert_close(torch.linalg.svdvals(other), torch.linalg.svdvals(matrix), atol=1e-4, rtol=1e-4)
    assert tails.measure(other)["stable_rank"] == pytest.approx(tails.measure(matrix)["stable_rank"], rel=1e-3)
    assert not torch.allclose(other, matrix)


def test_a_study_of_folders_draws_every_expert(tmp_path, capsys):
    base = {f"model.layers.{layer}.mlp.up.weight": normal(12, 10, seed=layer) for layer in range(3)}
    base |= {"model.norm.weight": normal(10), "model.embed.weight": normal(20, 10)}
    for place, seed in (("base", None), ("one", 7), ("two", 8)):
        (tmp_path / place).mkdir()
        moved = {name: t if seed is None else t + 0.1 * normal(*t.shape, seed=seed) for name, t in base.items()}
        save_file(moved, tmp_path / place / "model.safetensors")
    arguments = ["--base", str(tmp_path / "base"), "--out", str(tmp_path / "out"), "--every", "2"]
    tails.main([*arguments, "--expert", f"one={tmp_path / 'one'}", "--expert", f"two={tmp_path / 'two'}"])
    assert capsys.readouterr().out.splitlines()[1].startswith("two beyond ")
    told = tails.study(tmp_path / "base", {"one": tmp_path / "one"}, 2)
    assert list(told["one"]) == ["0", "2"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"tails.json", "tails-light.png", "tails-dark.png"}


def test_folders_that_do_not_fit_are_refused(tmp_path):
    (tmp_path / "base").mkdir()
    with pytest.raises(SourceError, match="no such file"):
        list(tails.changes(tmp_path / "base", tmp_path / "base"))
