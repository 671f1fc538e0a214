"""Continuations of one prefix in one row of tokens: each sees the prefix and itself, none sees another.

    prefix | a a a | b b | c c c c      one pass, no padding, the prefix once

A token's mask and position are those that it would have in a row of its own, so what comes out is the same; only the
order of sums differs. TruthfulQA's choices are asked 1.6 times as fast as behind a repeated cache of the prefix
(docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any
from weakref import WeakKeyDictionary

from .generate import is_out_of_memory
from .models import Opened

Ids = list[int]
Scores = list[list[float]]
#: nats a token by which two ways of computing the same may differ, in bfloat16 too; a mask or a position that a model
#: does not heed moves it by far more
_TOLERANCE = 0.05
#: whether a model was found to heed masks and positions, by comparing one question's scores
_HEEDS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def can_pack(model: Any, longest: int) -> bool:
    """Whether a model may be asked so: attention alone, that takes any mask, and no comparison spoke against it.

    Args:
        model: a causal one.
        longest: tokens of the prefix with the longest text; a sliding window has to hold them.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if "sliding_attention" in kinds and longest > (getattr(config, "sliding_window", None) or 0):
        return False
    return (
        kinds <= {"full_attention", "sliding_attention"}
        and not getattr(model, "_is_stateful", False)
        and getattr(model.config, "_attn_implementation", None) in ("sdpa", "eager")
        and _HEEDS.get(model, True)
    )


def scored(model: Any, packed: Callable[[], Scores], apart: Callable[[], Scores], tokens: int) -> Scores:
    """Packed scores; the first time both ways, and from then on apart where they do not agree.

    Args:
        model: one that `can_pack`.
        packed, apart: give the scores of the same texts.
        tokens: of the longest text.
    """
    if model in _HEEDS:
        return packed()
    known = apart()
    try:
        found = packed()
    except (IndexError, RuntimeError, TypeError, ValueError) as error:  # ALiBi is built of a mask of two dimensions
        if is_out_of_memory(error):
            raise
        _HEEDS[model] = False
        return known
    pairs = zip(chain.from_iterable(found), chain.from_iterable(known), strict=True)
    _HEEDS[model] = max(abs(one - other) for one, other in pairs) <= _TOLERANCE * tokens
    return found if _HEEDS[model] else known


def rooms(parts: Sequence[Ids], size: int) -> Iterator[list[Ids]]:
    """Texts that are asked in one row: no more tokens in all than `size` texts have that are padded to the longest.

    >>> [len(room) for room in rooms([[1] * 9, [1] * 3, [1] * 3, [1] * 3], 2)]
    [4]
    >>> [len(room) for room in rooms([[1] * 9, [1] * 9, [1] * 9], 2)]
    [2, 1]
    """
    room: list[Ids] = []
    most = size * max(map(len, parts))
    for part in parts:
        if room and sum(map(len, room)) + len(part) > most:
            yield room
            room = []
        room.append(part)
    yield room


def packed_scores(opened: Opened, before: Ids, parts: Sequence[Ids]) -> list[list[Any]]:
    """Of each model the log-likelihoods of the tokens of each text behind the prefix."""
    import torch

    model: Any = opened.model
    device = next(model.parameters()).device
    n, shown = len(before), [part[:-1] for part in parts]  # nothing is asked of what follows a text
    ids = torch.tensor([*before, *(token for part in shown for token in part)], device=device)
    with torch.inference_mode():
        logits = model(
            input_ids=ids.expand(opened.count, -1),
            attention_mask=_mask(n, shown).to(device, model.dtype).expand(opened.count, 1, -1, -1),
            position_ids=_places(n, shown).to(device).expand(opened.count, -1),
            logits_to_keep=last(len(ids) - n + 1, len(ids), device), use_cache=False, **opened.named(1),
        ).logits  # fmt: skip
    ends = accumulate(map(len, shown), initial=1)  # row 0 of the logits is the prefix's last token
    rows = [row for start, end in pairwise(ends) for row in (0, *range(start, end))]
    at, tokens = torch.tensor([rows, [*chain.from_iterable(parts)]], device=device)
    # fetched at once: a GPU waits for each
    known = logits.float().log_softmax(-1)[:, at, tokens].double().cpu()
    return [list(each.split([*map(len, parts)])) for each in known]


def last(count: int, width: int, device: Any) -> Any:
    """`logits_to_keep` of the last `count` of `width` places, as indices [count].

    Behind a slice of them, which a number makes, the product for a single row copies the whole head: 8 times as long as
    the product itself in bfloat16 on a CPU with AMX (docs/LOG.md).
    """
    import torch

    return torch.arange(width - count, width, device=device)


def _places(n: int, parts: Sequence[Ids]) -> Any:
    """Positions: each text goes on from the prefix's end."""
    import torch

    return torch.tensor([*range(n), *(n + place for part in parts for place in range(len(part)))])[None]


def _mask(n: int, parts: Sequence[Ids]) -> Any:
    """What is added to attention [1, 1, tokens, tokens]: 0 for what came before in the prefix and the own text."""
    import torch

    owner = torch.tensor([0] * n + [number for number, part in enumerate(parts, 1) for _ in part])
    own = (owner[None, :] == 0) | (owner[None, :] == owner[:, None])
    seen = own & torch.ones(len(owner), len(owner), dtype=torch.bool).tril()
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
