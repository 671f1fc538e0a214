"""Training: the head is asked for the answers alone, and what is learnt is what TRL's own loss teaches."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from hf_merge3h.lab.comparison import sft
from hf_merge3h.lab.comparison.reading import read_lab
from hf_merge3h.lab.comparison.steps import graph_of

from . import small
from .test_run import here


def trained(folder, kind):
    """Curve and weights of the first H's expert."""
    training = {kind: {"steps": 4, "batch_size": 3, "learning_rate": 1e-3}}
    graph = graph_of(read_lab(small.lab(folder, training=training, paradigms={"static": [kind]})), folder / "out")
    name = f"train/static/{kind}/helpfulness"
    here(graph, [name])
    facts = json.loads((graph.folder(name) / "training.json").read_text())
    return facts["loss_curve"], load_file(next(graph.folder(name).glob("*model.safetensors")))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_loss_of_the_answers_alone_is_trls(tmp_path, monkeypatch, kind):
    from transformers import LlamaForCausalLM
    from trl import SFTTrainer

    asked = []
    forward = LlamaForCausalLM.forward

    def watched(self, *arguments, **options):
        found = forward(self, *arguments, **options)
        asked.append(found.logits.shape[:-1].numel())
        return found

    monkeypatch.setattr(LlamaForCausalLM, "forward", watched)
    curve, weights = trained(tmp_path / "ours", kind)
    answers = len("It is 0.") + 3  # letters are tokens here; some numbers have two, and the end is one
    assert len(asked) == 4
    assert max(asked) <= 3 * answers

    monkeypatch.setattr(sft, "trainer_class", lambda: SFTTrainer)
    known_curve, known = trained(tmp_path / "trl", kind)
    assert curve == pytest.approx(known_curve, abs=2e-4)
    assert max(curve) > 2
    assert weights.keys() == known.keys()
    for name, tensor in known.items():
        assert torch.allclose(weights[name], tensor, atol=2e-4), name
