"""Texts behind one prefix in one row of tokens have the scores that they have in rows of their own."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
)

from hf_merge3h.evaluation import likelihood, packing
from hf_merge3h.evaluation.models import Opened
from tests.evaluation import tiny

TEXTS = ["yes", "no, never in my life", "x", "perhaps, if the wind is right"]
SMALL = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**SMALL, "intermediate_size": 64, "num_key_value_heads": 1}
CONFIGS = {
    "llama": LlamaConfig(**LLAMA),
    "mistral": MistralConfig(**LLAMA, sliding_window=None),
    "gpt2": GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=2),
    "gemma3": Gemma3TextConfig(
        **LLAMA, head_dim=16, sliding_window=128, layer_types=["sliding_attention", "full_attention"]
    ),
}


def opened(config, tmp_path, attention="sdpa", dtype=torch.float32):
    """A random model whose attention is not flat, with the tiny tokenizer."""
    from transformers import AutoTokenizer

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.2)
    tokenizer = AutoTokenizer.from_pretrained(tiny.folder(tmp_path / "tokenizer"), padding_side="left")
    return Opened(model.to(dtype), tokenizer, True, ("it",))


def apart(model, prefix="Is it so? "):
    """Each text by a plain call of its own."""
    before, _, after = likelihood.continuations(model, prefix, TEXTS)
    scores = []
    for part in after:
        with torch.inference_mode():
            logits = model.model(input_ids=torch.tensor([[*before, *part]])).logits[0].float().log_softmax(-1)
        scores.append(sum(logits[len(before) + k - 1, token].item() for k, token in enumerate(part)))
    return scores


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
def test_packed_scores_are_those_of_each_text_alone(name, attention, tmp_path):
    model = opened(CONFIGS[name], tmp_path, attention)
    (scores,) = likelihood.choice_scores(model, "Is it so? ", TEXTS, 8)
    assert packing.can_pack(model.model, 32)  # the comparison did not speak against it
    assert scores == pytest.approx(apart(model), abs=2e-4)
    (again,) = likelihood.choice_scores(model, "Is it so? ", TEXTS, 2)
    assert again == pytest.approx(scores, abs=2e-4)


def test_bfloat16_is_no_reason_to_give_it_up(tmp_path):
    model = opened(CONFIGS["llama"], tmp_path, dtype=torch.bfloat16)
    likelihood.choice_scores(model, "Is it so? ", TEXTS, 8)
    assert packing.can_pack(model.model, 32)


def test_what_a_sliding_window_does_not_hold_is_asked_apart(tmp_path):
    model = opened(CONFIGS["gemma3"], tmp_path)
    assert packing.can_pack(model.model, 128)
    assert not packing.can_pack(model.model, 129)


def test_a_recurrent_model_is_asked_apart():
    config = MambaConfig(vocab_size=512, hidden_size=32, num_hidden_layers=2, state_size=4)
    model = AutoModelForCausalLM.from_config(config)
    assert not packing.can_pack(model, 10)


def test_a_model_that_does_not_heed_positions_is_found_out(tmp_path):
    """BLOOM's positions (ALiBi) are distances in the row: what lies between a text and its prefix moves it."""
    model = opened(BloomConfig(vocab_size=512, hidden_size=32, n_layer=2, n_head=2), tmp_path, "eager")
    (scores,) = likelihood.choice_scores(model, "Is it so? ", TEXTS, 8)
    assert scores == pytest.approx(apart(model), abs=2e-4)
    assert not packing.can_pack(model.model, 10)
    (again,) = likelihood.choice_scores(model, "Is it so? ", TEXTS, 8)
    assert again == pytest.approx(scores, abs=2e-4)


def test_scores_are_compared_once_and_what_differs_is_asked_apart_from_then_on():
    close, far = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    known = [[-3.0, -5.0]]
    for model, told in ((close, [[-3.01, -5.02]]), (far, [[-3.0, -5.4]])):
        first = packing.scored(model, lambda told=told: told, lambda: known, tokens=4)
        assert first == (told if model is close else known)
    never = pytest.fail
    assert packing.scored(close, lambda: [[-1.0]], lambda: never("asked apart again"), tokens=4) == [[-1.0]]


def test_want_of_memory_is_no_word_against_packing():
    def full():
        raise torch.OutOfMemoryError("out of memory")

    model = torch.nn.Linear(1, 1)
    with pytest.raises(torch.OutOfMemoryError):
        packing.scored(model, full, lambda: [[0.0]], tokens=1)
    assert packing.scored(model, lambda: [[0.0]], lambda: [[0.0]], tokens=1) == [[0.0]]
