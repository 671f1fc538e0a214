"""Adapters of one live PeftModel, asked in one batch."""

from __future__ import annotations

import pytest

import hf_merge3h
from hf_merge3h.errors import RequestError
from hf_merge3h.evaluation import asking
from hf_merge3h.evaluation.together import together
from tests.engine.models import peft_model

from . import tiny


def test_adapters_of_one_model_are_asked_together_and_say_what_copies_say(suite, tmp_path, monkeypatch):
    adapted = peft_model(tiny.model(), {"helpful": {}, "honest": {}}).train()
    names = {"base": None, "helpful": "helpful", "honest": "honest"}
    models = {name: (adapted, adapter) for name, adapter in names.items()}
    given, sizes = {"tokenizer": tiny.tokenizer(), "batch_size": 3, "progress": False, "device": "cpu"}, []
    real = type(adapted.get_base_model()).forward
    monkeypatch.setattr(
        type(adapted.get_base_model()),
        "forward",
        lambda self, *args, **kwargs: sizes.append(len(kwargs["input_ids"])) or real(self, *args, **kwargs),
    )
    together = hf_merge3h.evaluate_3h(models, suite, out=tmp_path / "together", **given)
    assert adapted.training
    assert all(size % 3 == 0 for size in sizes)
    monkeypatch.setattr(asking, "together", lambda models: [[name] for name in models])
    alone = hf_merge3h.evaluate_3h(models, suite, out=tmp_path / "alone", **given)
    for name in names:
        for task in together.answers[name]:
            for item, row in together.answers[name][task].items():
                other = alone.answers[name][task][item]
                assert row.get("answers") == other.get("answers")
                for key in ("log_likelihood", "log_likelihoods"):
                    assert row.get(key) == pytest.approx(other.get(key), abs=1e-4)
    assert {name: together.figures["gold"][name].value for name in names} == pytest.approx(
        {name: alone.figures["gold"][name].value for name in names}, abs=1e-4
    )


def test_adapters_that_cannot_be_mixed_are_asked_as_copies():
    model, other = tiny.model(), tiny.model()
    plain = peft_model(model, {"a": {}, "b": {}})
    dora = peft_model(other, {"a": {"use_dora": True}, "b": {}})
    assert together({"base": (plain, None), "x": "me/x", "a": (plain, "a"), "b": (plain, "b")}) == [
        ["base", "a", "b"], ["x"],
    ]  # fmt: skip
    assert together({"a": (dora, "a"), "b": (dora, "b")}) == [["a"], ["b"]]
    assert together({"base": (dora, None), "b": (dora, "b")}) == [["base", "b"]]
    plain.merge_adapter(["a"])
    assert together({"a": (plain, "a"), "b": (plain, "b")}) == [["a"], ["b"]]


def test_answers_can_be_shortened_and_the_title_says_so(suite, models, tmp_path):
    report = hf_merge3h.evaluate_3h(
        models, suite, out=tmp_path / "out", limit=2, datasets=["unsafe"], shorten={"unsafe": 2}, progress=False
    )
    assert report.facts["datasets"]["unsafe"]["title"].endswith("answers of 2 tokens")
    said = [row["answers"][0] for row in report.answers["base"]["unsafe"].values()]
    assert all(len(tiny.tokenizer()(text, add_special_tokens=False).input_ids) <= 2 for text in said)
    for wrong, told in (({"nix": 2}, "a data set of"), ({"facts": 2}, "in words"), ({"unsafe": 0}, "1 or more")):
        with pytest.raises(RequestError, match=told):
            hf_merge3h.evaluate_3h(models, suite, shorten=wrong)
