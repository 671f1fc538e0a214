"""Log-likelihoods of continuations; those of one question share the computation of its prefix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .generate import encode
from .models import Opened
from .packing import Scores, can_pack, last, packed_scores, rooms, scored

Ids = list[int]


def continuations(opened: Opened, prefix: str, texts: Sequence[str]) -> tuple[Ids, list[Ids], list[Ids]]:
    """Tokens of a prefix, of each whole (prefix and text, encoded together), and of each text's part of it.

    Where a text starts in the middle of the prefix's last token, its whole does not start with the prefix's tokens.
    """
    space = "" if opened.chat else " "
    before = encode(opened, prefix)
    wholes = [encode(opened, prefix + space + text) for text in texts]
    return before, wholes, [whole[len(before) :] for whole in wholes]


def choice_scores(opened: Opened, prefix: str, texts: Sequence[str], size: int) -> Scores:
    """Of each model the sum of the log-likelihoods of each text's tokens after the prefix, `size` texts at a time.

    sum over tokens t of log p(t | prefix, tokens before t)
    """
    before, wholes, after = continuations(opened, prefix, texts)
    shared = all(whole[: len(before)] == before and len(whole) > len(before) for whole in wholes)
    pairs = [(whole[: len(before)], part) for whole, part in zip(wholes, after, strict=True)]

    def apart() -> Scores:
        batches = range(0, len(pairs), size)
        return _sums(opened, (token_scores(opened, pairs[start : start + size]) for start in batches))

    def packed() -> Scores:
        return _sums(opened, (packed_scores(opened, before, room) for room in rooms(after, size)))

    if not (shared and can_pack(opened.model, max(map(len, wholes)))):
        return apart()
    return scored(opened.model, packed, apart, max(map(len, after)))


def _sums(opened: Opened, found: Iterable[Sequence[Sequence[Any]]]) -> Scores:
    scores: Scores = [[] for _ in range(opened.count)]
    for part in found:
        for known, rows in zip(scores, part, strict=True):
            known += [float(row.sum()) for row in rows]
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
    kept = last(longest + 1, width, device)
    with torch.inference_mode():
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=places, logits_to_keep=kept, use_cache=False,
            **opened.named(len(pairs)),
        ).logits  # fmt: skip
    sizes = [len(after) for _, after in pairs] * opened.count
    tokens = torch.tensor([token for _, after in pairs for token in after] * opened.count, device=device).split(sizes)
    found = [
        logits[row, -len(each) - 1 : -1].float().log_softmax(-1).gather(1, each[:, None])[:, 0]
        for row, each in enumerate(tokens)
    ]
    # fetched at once: a GPU waits for each
    return _by_model(list(torch.cat(found).double().cpu().split(sizes)), len(pairs))


def _by_model(rows: list[Any], count: int) -> list[list[Any]]:
    return [rows[start : start + count] for start in range(0, len(rows), count)]
