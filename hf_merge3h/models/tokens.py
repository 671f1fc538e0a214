"""Tokenizers as merging sees them: which row of a model's embedding stands for which text, and unions of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SourceError, one_line_of
from .lock import PATCHED_TORCH

#: One of these is there wherever a tokenizer is.
_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model",
)  # fmt: skip


@dataclass(frozen=True)
class Tokens:
    """A tokenizer.

    Attributes:
        content: what its tokenizer.json holds.
        ids: each token's number, by its text.
        added: of the tokens that were added beside the vocabulary, the entry in `content`.
    """

    content: Mapping[str, Any]
    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]

    @property
    def rows(self) -> int:
        """How many rows an embedding needs at least."""
        return max(self.ids.values(), default=-1) + 1


def read_tokens(folder: Path, label: str) -> Tokens:
    """The tokenizer in a folder; one without tokenizer.json is converted by transformers. No code in it is run.

    Raises:
        SourceError: there is none, or it cannot be read.
    """
    if not any((folder / name).is_file() for name in _FILES):
        raise SourceError(f"{label}: has no tokenizer, and vocabularies are matched by it; save one into {folder}")
    try:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8") if path.is_file() else _converted(folder))
        return as_tokens(content)
    except Exception as problem:  # of json, tokenizers and transformers, many kinds for broken and hostile files
        raise SourceError(
            f"{label}: its tokenizer cannot be read, and vocabularies are matched by it: {one_line_of(problem)}"
        ) from None


def _converted(folder: Path) -> str:
    from transformers import AutoTokenizer

    with PATCHED_TORCH:
        found: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return found.backend_tokenizer.to_str()


def as_tokens(content: Any) -> Tokens:
    """The content of a tokenizer.json; the library `tokenizers` checks it."""
    from tokenizers import Tokenizer

    ids = Tokenizer.from_str(json.dumps(content)).get_vocab(with_added_tokens=True)
    added = {entry["content"]: entry for entry in content.get("added_tokens") or ()}
    return Tokens(content, dict(sorted(ids.items(), key=lambda pair: pair[1])), added)


def union(first: Tokens, others: Sequence[Tokens]) -> Tokens:
    """A tokenizer with the first one's tokens under their numbers, and then those of the others that it lacks.

    Tokens of a vocabulary go into the vocabulary (byte-pair merges go with them, after the first one's own), added
    tokens are added.
    """
    content, ids = copy.deepcopy(dict(first.content)), dict(first.ids)
    free = first.rows
    for other in others:
        for text in other.ids:
            if text in ids:
                continue
            ids[text] = free
            if text in other.added:
                content.setdefault("added_tokens", []).append({**other.added[text], "id": free})
            else:
                _into_vocabulary(content, other, text, free)
            free += 1
        _join_merges(content, other, ids)
    return as_tokens(content)


def with_tokens(tokens: Tokens, texts: Sequence[str]) -> Tokens:
    """A tokenizer with further tokens, added at the end."""
    content, free = copy.deepcopy(dict(tokens.content)), tokens.rows
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    for number, text in enumerate([text for text in texts if text not in tokens.ids], start=free):
        content.setdefault("added_tokens", []).append({"id": number, "content": text, **plain})
    return as_tokens(content)


def _into_vocabulary(content: dict[str, Any], other: Tokens, text: str, number: int) -> None:
    vocabulary = content["model"].get("vocab")
    if isinstance(vocabulary, dict):
        vocabulary[text] = number
    elif isinstance(vocabulary, list) and len(vocabulary) == number:  # Unigram: text and score, by position
        theirs = other.content["model"].get("vocab")
        scores = dict(theirs) if isinstance(theirs, list) else {}
        vocabulary.append([text, scores.get(text, min(score for _, score in vocabulary))])
    else:  # numbers of a list are positions, and added tokens come after it
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        content.setdefault("added_tokens", []).append({"id": number, "content": text, **plain})


def _join_merges(content: dict[str, Any], other: Tokens, ids: Mapping[str, int]) -> None:
    ours, theirs = content["model"].get("merges"), other.content["model"].get("merges")
    if not isinstance(ours, list) or not isinstance(theirs, list):
        return
    known = {_pair(each) for each in ours}
    vocabulary = content["model"]["vocab"]
    for each in theirs:
        pair = _pair(each)
        if pair not in known and all(part in vocabulary for part in (*pair, "".join(pair))):
            ours.append(list(pair) if ours and isinstance(ours[0], list) else " ".join(pair))


def _pair(merge: Any) -> tuple[str, ...]:
    return tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge)
