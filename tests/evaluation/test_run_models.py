"""Who is asked: folders, live models and adapters, in batches, with and without a chat template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hf_merge3h.errors import MergeError, RequestError, SourceError
from hf_merge3h.evaluation import generate
from hf_merge3h.evaluation.items import question_hash

from . import tiny
from .running import evaluate


def test_out_of_memory_halves_the_batch_and_says_so(suite, models, tmp_path, monkeypatch):
    plain = evaluate(models["base"], suite, tmp_path / "plain", batch_size=1, datasets=["sums", "gold"])
    real = torch.nn.Module.__call__

    def small(self, *args, **named):
        ids = named.get("input_ids")
        if ids is not None and len(ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, *args, **named)

    monkeypatch.setattr(torch.nn.Module, "__call__", small)
    report = evaluate(models["base"], suite, tmp_path / "small", batch_size=8, datasets=["sums", "gold"])
    assert [text for text in report.facts["warnings"] if "batches of" in text] == [
        "merged: out of memory: batches of 4 from here on", "merged: out of memory: batches of 2 from here on"
    ]  # fmt: skip
    assert report.figures["sums"]["merged"].n == plain.figures["sums"]["merged"].n
    batching = generate.Batching(4, lambda text: None)

    def never(items):
        raise MemoryError

    with pytest.raises(MergeError, match="one item alone"):
        list(batching.run([1, 2, 3], never))


def test_batches_change_nothing_that_matters(suite, models, tmp_path):
    values = [
        evaluate(models["base"], suite, tmp_path / str(size), batch_size=size, datasets=["gold", "facts"]).figures
        for size in (1, 5)
    ]
    for name in ("gold", "facts"):
        assert values[0][name]["merged"].value == pytest.approx(values[1][name]["merged"].value, abs=1e-5)


def test_live_models_and_adapters_are_given_back_as_they_were(suite, tmp_path):
    from tests.engine.models import peft_model

    base = tiny.model().train()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    adapted = peft_model(base, {"helpful": {}})
    adapted.save_pretrained(tmp_path / "adapter")
    models = {
        "base": base, "helpful": (base, tmp_path / "adapter" / "helpful"), "honest": (adapted, "helpful"),
        "under": (adapted, None),
    }  # fmt: skip
    report = evaluate(models, suite, tmp_path / "out", limit=4, tokenizer=tiny.tokenizer(), datasets=["gold"])
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert base.training
    gold = report.values["gold"]
    assert gold["base"] == gold["under"]
    assert gold["helpful"] == pytest.approx(gold["honest"], rel=1e-5)
    assert gold["helpful"] != pytest.approx(gold["base"], rel=1e-3)


def test_an_adapters_folder_stands_on_the_base_that_is_given(suite, models, tmp_path):
    from tests.engine.models import peft_model

    peft_model(tiny.model(), {"helpful": {}}).save_pretrained(tmp_path)
    trained = [question_hash(tiny.sum_question(k)) for k in (1, 2, 3)]
    (tmp_path / "helpful" / "training_questions.json").write_text(json.dumps({"sha256": trained}))
    asked = {"base": models["base"], "helpful": tmp_path / "helpful"}
    report = evaluate(asked, suite, tmp_path / "out", datasets=["sums", "facts"])
    assert report.facts["left_out"] == {"sums": 3, "facts": 0}
    assert report.figures["sums"]["base"].n == 9
    assert "trained on the question: sums 3" in report.to_markdown()
    (tmp_path / "helpful" / "training_questions.json").write_text("{}")
    with pytest.raises(SourceError, match="no hashes of questions"):
        evaluate(asked, suite, tmp_path / "again")


def test_without_a_chat_template_examples_come_first(suite, tmp_path):
    from hf_merge3h.evaluation.models import opened
    from hf_merge3h.evaluation.suite import read_suite

    task = read_suite(suite).tasks["sums"]
    for chat, expected in (
        (True, "[user] 2 + 2?\n[assistant] "), (False, "Question: 1 + 1?\nAnswer: #### 2\n\nQuestion: 2 + 2?\nAnswer:")
    ):  # fmt: skip
        with opened("m", tiny.folder(tmp_path / str(chat), chat=chat), device="cpu") as model:
            assert generate.prompt_text(task, "2 + 2?", model) == expected


def test_a_shared_prefix_gives_what_plain_scoring_gives(models):
    from hf_merge3h.evaluation.likelihood import choice_scores, continuations, token_scores
    from hf_merge3h.evaluation.models import opened

    texts = ["yes", "no, never in my life", "x"]
    with opened("m", models["base"], device="cpu") as model:
        (shared,) = choice_scores(model, "Is it so? ", texts, 2)
        before, _, after = continuations(model, "Is it so? ", texts)
        (found,) = token_scores(model, [(before, part) for part in after])
        plain = [float(row.sum()) for row in found]
        alone = []
        for part in after:
            ids = torch.tensor([[*before, *part]])
            logits = model.model(input_ids=ids).logits[0].log_softmax(-1)
            alone.append(sum(logits[len(before) + k - 1, token].item() for k, token in enumerate(part)))
    assert shared == pytest.approx(alone, abs=1e-4)
    assert plain == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({}, "models={}"), ({"a b/c": "x"}, "names a folder"), ({"merged": 3}, "models['merged']='int'"),
        ({"merged": Path("nowhere")}, "no such folder"), ({"merged": ("a", "b", "c")}, "(model, adapter)"),
    ],
)  # fmt: skip
def test_bad_models(suite, models, message):
    with pytest.raises(RequestError) as told:
        evaluate(models, suite, None)
    assert message in str(told.value)


def test_an_unreadable_model_is_told(suite, tmp_path):
    tiny.folder(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(SourceError, match="cannot be loaded"):
        evaluate(tmp_path / "broken", suite, tmp_path / "out", limit=1)
