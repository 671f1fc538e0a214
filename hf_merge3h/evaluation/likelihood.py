"""Log-likelihoods of continuations; those of one question share the computation of its prefix."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from .generate import encode
from .models import Opened

Ids = list[int]


def continuations(opened: Opened, prefix: str, texts: Sequence[str]) -> tuple[Ids, list[Ids], list[Ids]]:
    """Tokens of a prefix, of each whole (prefix and text, encoded together), and of each text's part of it.

    Where a text starts in the middle of the prefix's last token, its whole does not start with the prefix's tokens.
    """
    space = "" if opened.chat else " "
    before = encode(opened, prefix)
    wholes = [encode(opened, prefix + space + text) for text in texts]
    return before, wholes, [whole[len(before) :] for whole in wholes]


def choice_scores(opened: Opened, prefix: str, texts: Sequence[str], size: int) -> list[list[float]]:
    """Of each model the sum of the log-likelihoods of each text's tokens after the prefix, `size` texts at a time.

    sum over tokens t of log p(t | prefix, tokens before t)
    """
    before, wholes, after = continuations(opened, prefix, texts)
    shared = all(whole[: len(before)] == before and len(whole) > len(before) for whole in wholes)
    scores: list[list[float]] = [[] for _ in range(opened.count)]

    def keep(found: Sequence[Sequence[Any]]) -> None:
        for known, rows in zip(scores, found, strict=True):
            known += [float(row.sum()) for row in rows]

    if shared and _has_plain_cache(opened.model):
        cache, last = _prefix(opened, before)
        for start in range(0, len(after), size):
            keep(_behind(opened, cache, last, len(before), after[start : start + size]))
        return scores
    pairs = [(whole[: len(before)], part) for whole, part in zip(wholes, after, strict=True)]
    for start in range(0, len(pairs), size):
        keep(token_scores(opened, pairs[start : start + size]))
    return scores


def token_scores(opened: Opened, pairs: Sequence[tuple[Ids, Ids]]) -> list[list[Any]]:
    """Of each model the log-likelihoods of the tokens of each continuation after its own prefix: one padded batch."""
    import torch

    model, pad = opened.model, opened.tokenizer.pad_token_id
    device = next(model.parameters()).device
    rows = [(*before, *after) for before, after in pairs]
    width, longest = max(map(len, rows)), max(len(after) for _, after in pairs)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows] * opened.count, device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows] * opened.count, device=device)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=places, logits_to_keep=longest + 1, use_cache=False,
            **opened.named(len(pairs)),
        ).logits  # fmt: skip
    found = []
    for row, (_, after) in enumerate([*pairs] * opened.count):
        n = len(after)
        predicted = logits[row, -n - 1 : -1].float().log_softmax(-1)
        found.append(predicted.gather(1, torch.tensor(after, device=device)[:, None])[:, 0].double().cpu())
    return _by_model(found, len(pairs))


def _by_model(rows: list[Any], count: int) -> list[list[Any]]:
    return [rows[start : start + count] for start in range(0, len(rows), count)]


def _has_plain_cache(model: Any) -> bool:
    """Whether the model's cache can be repeated for several continuations (recurrent states cannot)."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    return not getattr(model, "_is_stateful", False) and (kinds is None or set(kinds) <= {"full_attention"})


def _prefix(opened: Opened, ids: Ids) -> tuple[Any, Any]:
    """The cache of a prefix, and what each model then expects: log-probabilities, a row each."""
    import torch

    model: Any = opened.model
    rows = torch.tensor([ids] * opened.count, device=next(model.parameters()).device)
    with torch.inference_mode():
        told = model(input_ids=rows, use_cache=True, logits_to_keep=1, **opened.named(1))
    return told.past_key_values, told.logits[:, -1].float().log_softmax(-1)


def _behind(opened: Opened, cache: Any, last: Any, n: int, parts: Sequence[Ids]) -> list[list[Any]]:
    """Scores of continuations behind one computed prefix of n tokens; padded on the right, for their starts align."""
    import torch

    model, pad = opened.model, opened.tokenizer.pad_token_id
    device = last.device
    width = max(map(len, parts))
    rows = [(voice, part) for voice in range(opened.count) for part in parts]
    ids = torch.tensor([[*part, *[pad] * (width - len(part))] for _, part in rows], device=device)
    mask = torch.tensor([[1] * (n + len(part)) + [0] * (width - len(part)) for _, part in rows], device=device)
    repeated = copy.deepcopy(cache)
    repeated.batch_repeat_interleave(len(parts))
    places = torch.arange(n, n + width, device=device)[None].expand(len(rows), -1)
    with torch.inference_mode():
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=repeated, use_cache=True,
            **opened.named(len(parts)),
        ).logits  # fmt: skip
    found = []
    for row, (voice, part) in enumerate(rows):
        tokens = torch.tensor(part, device=device)
        rest = logits[row, : len(part) - 1].float().log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
        found.append(torch.cat([last[voice, tokens[:1]], rest]).double().cpu())
    return _by_model(found, len(parts))
