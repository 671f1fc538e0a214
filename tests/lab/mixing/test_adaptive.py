"""Learnt proportions, and the scores that need a model: on a tiny one, with sets whose truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from hf_merge3h import RequestError, mix_data
from hf_merge3h.lab.mixing.adaptive import Proxy, learn_proportions
from hf_merge3h.lab.mixing.records import Example, read_sets
from hf_merge3h.lab.mixing.scoring import (
    InstructionFollowingDifficulty,
    RewardModel,
    answer_losses,
    prompt_and_answer,
)
from tests.models import tiny

WORDS = 40


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {"<unk>": 0, "<s>": 1, **{f"w{i}": i + 2 for i in range(WORDS)}}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny.llama().eval()


def pairs(prompts: range, answer: str | None, count: int = 24) -> Dataset:
    generator = torch.Generator().manual_seed(len(prompts))
    made = []
    for i in range(count):
        prompt = f"w{prompts[i % len(prompts)]} w{prompts[(i + 1) % len(prompts)]}"
        noise = " ".join(f"w{int(k)}" for k in torch.randint(WORDS, (4,), generator=generator))
        made.append({"prompt": prompt, "completion": noise if answer is None else answer})
    return Dataset.from_list(made)


def learn(sets, model, tokenizer, **settings):
    return learn_proportions(read_sets(sets), model, tokenizer, Proxy(steps=12, learning_rate=5e-3, **settings), seed=0)


def test_answer_losses_are_the_models_own(model, tokenizer):
    tokens = torch.tensor([[3, 4, 5, 6, 7]])
    with torch.no_grad():
        ours = answer_losses(model, tokens, 2)
        logits = model(input_ids=tokens).logits[0].log_softmax(-1)
    expected = torch.stack([-logits[i - 1, tokens[0, i]] for i in range(2, 5)])
    assert torch.allclose(ours, expected, atol=1e-6)


def test_excess_loss_moves_weight_to_what_a_reference_knows_and_the_proxy_does_not(model, tokenizer):
    sets = {"easy": pairs(range(4), "w1 w1 w1 w1"), "noise": pairs(range(4, 8), None)}
    # A reference that has learnt the easy set leaves an excess there; on noise nobody is better than anybody.
    reference = _trained_on(model, tokenizer, sets["easy"])
    found = learn_proportions(read_sets(sets), model, tokenizer, Proxy(steps=12), seed=0, reference=reference)
    assert found.proportions["easy"] > 0.55
    assert math.isclose(sum(found.proportions.values()), 1)
    assert found.signals[0]["easy"] > found.signals[0]["noise"]


def test_alignment_takes_weight_from_the_set_that_pulls_against_the_others(model, tokenizer):
    sets = {"a": pairs(range(4), "w1 w1"), "b": pairs(range(4), "w1 w1"), "against": pairs(range(4), "w2 w2")}
    found = learn(sets, model, tokenizer, signal="alignment")
    assert found.cosines is not None
    assert found.cosines[0][1] > found.cosines[0][2]
    assert min(found.proportions, key=found.proportions.__getitem__) == "against"
    assert found.cosines[0][0] == pytest.approx(1)


def test_the_base_is_not_changed_and_a_run_repeats_itself(model, tokenizer):
    before = {name: p.clone() for name, p in model.named_parameters()}
    sets = {"a": pairs(range(4), "w1 w1"), "b": pairs(range(4), None)}
    first, again = (learn(sets, model, tokenizer) for _ in range(2))
    assert first == again
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_learnt_proportions_are_drawn(model, tokenizer):
    sets = {"a": pairs(range(4), "w1 w1"), "b": pairs(range(4, 8), None)}
    mixed, report = mix_data(
        sets, strategy="adaptive", model=model, tokenizer=tokenizer, steps=3, signal="alignment", size=10,
        near_duplicates=None, min_words=1, repeat=True, progress=False,
    )  # fmt: skip
    assert len(mixed) == 10
    assert report.trajectory is not None
    assert len(report.trajectory) == 3
    assert report.cosines is not None
    assert "gradient cosines of a" in repr(report)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"signal": "loss"}, "'excess_loss' or 'alignment'"),
        ({"steps": 0}, "steps=0"),
        ({"smoothing": 2}, "smoothing=2"),
    ],
)
def test_bad_settings(model, tokenizer, settings, words):
    sets = {"a": pairs(range(4), "w1 w1"), "b": pairs(range(4, 8), None)}
    with pytest.raises(RequestError, match=words):
        mix_data(
            sets, strategy="adaptive", model=model, tokenizer=tokenizer, near_duplicates=None, min_words=1, **settings
        )


def test_instruction_following_difficulty_is_the_ratio_of_losses(model, tokenizer):
    example = Example("a", 0, (("user", "w3 w4"),), "w5 w6")
    prompt, answer = prompt_and_answer(tokenizer, example)
    with torch.no_grad():
        with_prompt = answer_losses(model, torch.tensor([prompt + answer]), len(prompt)).mean()
        alone = answer_losses(model, torch.tensor([[1, *answer]]), 1).mean()
    (score,) = InstructionFollowingDifficulty(model, tokenizer)([example])
    expected = float(with_prompt / alone)
    assert (math.isnan(score) and expected >= 1) or score == pytest.approx(expected)
    trained = _trained_on(model, tokenizer, pairs(range(2), "w1 w1"))
    (learnt,) = InstructionFollowingDifficulty(trained, tokenizer)([Example("a", 0, (("user", "w0 w1"),), "w1 w1")])
    assert 0 < learnt < 1


def test_a_reward_model_scores_by_one_head(tokenizer):
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=3,
        pad_token_id=0,
    )  # fmt: skip
    judge = LlamaForSequenceClassification(config)
    example = Example("a", 0, (("user", "w3"),), "w5 w6")
    with torch.no_grad():
        logits = judge.eval()(input_ids=torch.tensor([tokenizer(example.text).input_ids])).logits[0]
    assert RewardModel(judge, tokenizer, head=2)([example]) == [pytest.approx(float(logits[2]))]
    with pytest.raises(RequestError, match="head=3"):
        RewardModel(judge, tokenizer, head=3)


def _trained_on(model, tokenizer, dataset):
    """A copy of the model that has seen one set for a while."""
    import copy

    trained = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2)
    for example in read_sets({"set": dataset})["set"] * 4:
        prompt, answer = prompt_and_answer(tokenizer, example)
        loss = answer_losses(trained, torch.tensor([prompt + answer]), len(prompt)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return trained.eval()
