"""Many short sequences behind one shared beginning, in one row, exactly as if each stood alone.

Every example of a chat model starts with the same tokens (the default system prompt), and the answers to one question
share the question. A row holds that beginning once, then the segments; a segment sees the beginning and itself only,
and its positions count on from the beginning's end. No padding, and the beginning is computed once a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Segment:
    """Tokens after the shared beginning; those from `answer_start` on are predicted."""

    tokens: tuple[int, ...]
    answer_start: int


@dataclass(frozen=True)
class Row:
    """A packed row: inputs for the backbone, and where the answers are.

    Attributes:
        predictors: Index of the position whose output predicts each answer token.
        targets: The answer tokens.
        owner: The segment each answer token belongs to.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    predictors: Tensor
    targets: Tensor
    owner: Tensor


def pack(prefix: Sequence[int], segments: Sequence[Segment]) -> Row:
    """Packs segments behind a prefix, with the mask that keeps them from seeing each other."""
    n = len(prefix)
    if n == 0:
        raise ValueError("prefix: empty, expected at least the token from which a first answer token is predicted")
    tokens, positions, group = list(prefix), list(range(n)), [-1] * n
    predictors: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    for number, segment in enumerate(segments):
        at = len(tokens)
        for j in range(segment.answer_start, len(segment.tokens)):
            # The first token of a segment comes after the prefix's last one, not after another segment's.
            predictors.append(at + j - 1 if j > 0 else n - 1)
            targets.append(segment.tokens[j])
            owner.append(number)
        tokens += segment.tokens
        positions += range(n, n + len(segment.tokens))
        group += [number] * len(segment.tokens)
    groups, place = torch.tensor(group), torch.arange(len(tokens))
    same = (groups[:, None] == groups[None, :]) | (groups[None, :] == -1)
    mask = same & (place[:, None] >= place[None, :])
    return Row(
        input_ids=torch.tensor(tokens)[None],
        position_ids=torch.tensor(positions)[None],
        attention_mask=mask[None, None],
        predictors=torch.tensor(predictors),
        targets=torch.tensor(targets),
        owner=torch.tensor(owner),
    )


def answer_log_likelihood(model: nn.Module, row: Row) -> Tensor:
    """Returns the log-likelihood of each answer token of a row.

    The head runs on the answer positions only: on all positions it would cost a fifth of a small model's step.
    """
    causal_lm: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    hidden = causal_lm.model(
        input_ids=row.input_ids, position_ids=row.position_ids, attention_mask=row.attention_mask, use_cache=False
    ).last_hidden_state[0]
    logits = causal_lm.lm_head(hidden[row.predictors]).float()
    return -nn.functional.cross_entropy(logits, row.targets, reduction="none")
