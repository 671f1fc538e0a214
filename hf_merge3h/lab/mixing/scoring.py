"""Scores by which rows are chosen: one of your own, a reward model's, or how hard an instruction is to follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import RequestError, bad
from .records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Examples of one set -> a number each; the higher the more wanted, NaN never.
Scorer = Callable[[Sequence[Example]], Sequence[float]]


class RewardModel:
    """Scores by a transformers reward model (sequence classification), one head of which may stand for each H.

    Args:
        model: Hub id, folder or a live model with a `score` or classification head.
        tokenizer: its tokenizer; that of `model` where it is an id or folder.
        head: which output counts, for models of several objectives (helpfulness, safety, ...).
        max_tokens: longer texts are cut at their end.

    Models that need code of their own (`trust_remote_code`), ArmoRM among them, are not loaded: wrap such a model in a
    function and give that as scorer.
    """

    def __init__(self, model: Any, tokenizer: Any = None, *, head: int = 0, max_tokens: int = 1024) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        if isinstance(model, str):
            tokenizer = AutoTokenizer.from_pretrained(model) if tokenizer is None else tokenizer
            model = AutoModelForSequenceClassification.from_pretrained(model, use_safetensors=True)
        if tokenizer is None:
            raise bad("tokenizer", None, "the tokenizer of a live reward model")
        heads = int(model.config.num_labels)
        if not 0 <= head < heads:
            raise bad("head", head, f"one of the model's {heads} outputs, from 0")
        self.model, self.tokenizer, self.head, self.max_tokens = model.eval(), tokenizer, head, max_tokens

    @torch.inference_mode()
    def __call__(self, examples: Sequence[Example]) -> list[float]:
        """The reward of each example's answer."""
        # One at a time: which token of a padded row the head reads depends on the model's pad token being set up.
        return [float(self.model(input_ids=self._tokens(each)).logits[0, self.head]) for each in examples]

    def _tokens(self, example: Example) -> Tensor:
        turns = [*example.turns, {"role": "assistant", "content": example.response}]
        if self.tokenizer.chat_template:
            tokens = self.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        else:
            tokens = self.tokenizer(example.text).input_ids
        return torch.tensor([tokens[: self.max_tokens]], device=self.model.device)


class InstructionFollowingDifficulty:
    """How much an instruction helps a model to write the answer: the less, the more there is to learn.

    IFD = L(A | Q) / L(A), with L the mean negative log-likelihood of the answer's tokens; examples of 1 or more (the
    instruction does not help: it does not fit its answer) score NaN and are never chosen.

    Args:
        model: the base model that will be trained.
        tokenizer: its tokenizer; the prompt goes through its chat template where it has one.
        max_tokens: longer answers are judged by their beginning.

    Reference:
        Li et al., "From quantity to quality: boosting LLM performance with self-guided data selection for instruction
        tuning", arXiv:2308.12032, equations 1 to 4.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int = 512) -> None:
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens

    @torch.inference_mode()
    def __call__(self, examples: Sequence[Example]) -> list[float]:
        """IFD of each example."""
        self.model.eval()
        scores = []
        for example in examples:
            prompt, answer = prompt_and_answer(self.tokenizer, example)
            answer = answer[: self.max_tokens]
            if not answer:
                scores.append(math.nan)
                continue
            alone = self._loss([], answer)
            ratio = self._loss(prompt, answer) / alone if alone > 0 else math.inf
            scores.append(ratio if ratio < 1 else math.nan)
        return scores

    def _loss(self, prompt: list[int], answer: list[int]) -> float:
        # Without a prompt the first token is predicted from the end-of-text token, as at the start of a document.
        start = prompt or [first_token(self.tokenizer)]
        tokens = torch.tensor([start + answer], device=self.model.device)
        return float(answer_losses(self.model, tokens, len(start)).mean())


def first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands before a text."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        if isinstance(token, int):
            return token
    return 0


def prompt_and_answer(tokenizer: PreTrainedTokenizerBase, example: Example) -> tuple[list[int], list[int]]:
    """Tokens of the prompt, as the model sees it when it answers, and of the answer."""
    if tokenizer.chat_template:
        text = str(tokenizer.apply_chat_template(example.turns, add_generation_prompt=True, tokenize=False))
    else:
        text = example.question + "\n"
    prompt = list(tokenizer(text, add_special_tokens=False).input_ids) or [first_token(tokenizer)]
    return prompt, list(tokenizer(example.response, add_special_tokens=False).input_ids)


def answer_losses(model: Any, tokens: Tensor, start: int) -> Tensor:
    """Negative log-likelihood of each token from `start` on: tokens [1, n] -> [n - start]."""
    before = torch.arange(start - 1, tokens.shape[1] - 1, device=tokens.device)  # a token's row is the one before it
    logits = model(input_ids=tokens, use_cache=False, logits_to_keep=before).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), tokens[0, start:], reduction="none")


def score_sets(sets: Mapping[str, Sequence[Example]], scorers: Scorer | Mapping[str, Scorer]) -> dict[str, np.ndarray]:
    """Score every example, by one scorer or by one a set."""
    if isinstance(scorers, Mapping):
        if set(scorers) != set(sets):
            raise bad("scorer", sorted(scorers), f"one scorer, or one for each of {', '.join(sets)}")
        each = dict(scorers)
    elif callable(scorers):
        each = dict.fromkeys(sets, scorers)
    else:
        raise bad("scorer", scorers, "a function of examples, or a dict of set and function")
    found = {}
    for name, examples in sets.items():
        scores = np.asarray(list(each[name](examples)), dtype=np.float64)
        if scores.shape != (len(examples),):
            raise RequestError(
                f"scorer of {name!r}: gave {scores.shape} numbers for {len(examples)} examples: expected one each"
            )
        found[name] = scores
    return found
