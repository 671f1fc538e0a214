"""The README's example of an evaluation, on tiny models."""

from __future__ import annotations

import hf_merge3h
from tests.markdown import blocks


def test_the_readmes_example(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = [one for one in blocks("README.md") if one.mark == "evaluated"]
    block.run(hf_merge3h=hf_merge3h, **models)
    assert "What got worse" in capsys.readouterr().out
    assert (tmp_path / "runs" / "x" / "report.md").exists()
    assert (tmp_path / "report.html").exists()
