"""Models that speak: templates of strangers, and what they may cost the others."""

from __future__ import annotations

import sys
import time

import pytest
import voices

from tests.evaluation import tiny

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages[0].content }}"


def loaded(folder, monkeypatch):
    monkeypatch.setattr(voices.places, "weights_of", lambda name: 1)
    return voices._load(str(folder))


def test_a_template_that_never_ends_keeps_nobody_from_answers(tmp_path, monkeypatch):
    folder = tiny.folder(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(ENDLESS)
    monkeypatch.setattr(voices, "_TEMPLATE_SECONDS", 0.5)
    start, tracer = time.monotonic(), sys.gettrace()
    with pytest.raises(ValueError, match="chat template takes longer than"):
        loaded(folder, monkeypatch)
    assert time.monotonic() - start < 60
    assert sys.gettrace() is tracer


def test_a_template_is_filled_in_as_ever(tmp_path, monkeypatch):
    model = loaded(tiny.folder(tmp_path / "model"), monkeypatch)
    ids = voices._prompt_ids(model.tokenizer, "Why?")
    assert model.tokenizer.decode(ids[0]) == "[user] Why?\n[assistant] "
    assert len(list(voices._batch(model, [voices.NO_ADAPTER], "Why?", 3))) <= 3
