"""What is taken out of training sets before they are mixed, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import RequestError
from .records import Example

#: MinHash permutations: at a threshold of 0.8 the chance to miss a pair of that similarity is under 1e-3.
_PERMUTATIONS = 128
_SHINGLE = 3  # words
_WORD = re.compile(r"\w+")
_LETTERS = 40  # fewer tell no language


@dataclass(frozen=True)
class Cleaning:
    """What is dropped.

    Attributes:
        min_words, max_words: bounds on the words of prompt and response together.
        language: ISO 639-1 code that a text must have (langdetect), or None for any. Texts of fewer than 40 letters
            pass: nothing can be said of them.
        near_duplicates: Jaccard similarity of word 3-grams from which two texts count as one, or None to keep all but
            equal texts. Of two, the one of the earlier set and row stays.
    """

    min_words: int = 3
    max_words: int = 2000
    language: str | None = None
    near_duplicates: float | None = 0.8


@dataclass
class Cleaned:
    """What is left, and what is not.

    Attributes:
        kept: set -> examples, in their order.
        dropped: set -> reason -> rows.
        overlaps: "a & b" -> examples of b that repeat one of a, sets of different names.
    """

    kept: dict[str, list[Example]] = field(default_factory=dict)
    dropped: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    overlaps: dict[str, int] = field(default_factory=dict)

    def drop(self, example: Example, reason: str) -> None:
        """Note one."""
        self.dropped[example.source].setdefault(reason, []).append(example.row)


def clean(sets: Mapping[str, Sequence[Example]], rules: Cleaning) -> Cleaned:
    """Drop what the rules name: by itself first, then what repeats an earlier example of any set."""
    cleaned = Cleaned({name: [] for name in sets}, {name: {} for name in sets})
    seen = _Seen(rules.near_duplicates)
    for name, examples in sets.items():
        for example in examples:
            reason = _fault(example, rules)
            if reason is None:
                earlier, reason = seen.repeats(example)
                if earlier is not None and earlier.source != name:
                    pair = f"{earlier.source} & {name}"
                    cleaned.overlaps[pair] = cleaned.overlaps.get(pair, 0) + 1
            if reason is None:
                cleaned.kept[name].append(example)
            else:
                cleaned.drop(example, reason)
    empty = [name for name, examples in cleaned.kept.items() if not examples]
    if empty:
        why = "; ".join(f"{name}: " + _reasons(cleaned.dropped[name]) for name in empty)
        raise RequestError(f"datasets: cleaning leaves nothing of {', '.join(empty)} ({why}): loosen the rules")
    return cleaned


def _reasons(dropped: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{len(rows)} {reason}" for reason, rows in dropped.items())


def _fault(example: Example, rules: Cleaning) -> str | None:
    """Why an example is no good by itself."""
    if not example.question.strip() or not example.response.strip():
        return "empty"
    words = len(_WORD.findall(example.text))
    if words < rules.min_words:
        return "too short"
    if words > rules.max_words:
        return "too long"
    if rules.language is not None and _language(example.text) not in (None, rules.language):
        return "other language"
    return None


def _language(text: str) -> str | None:
    """The language of a text, or None where that cannot be told."""
    from langdetect import LangDetectException, detector_factory

    if sum(map(str.isalpha, text)) < _LETTERS:
        return None
    detector_factory.DetectorFactory.seed = 0  # langdetect draws at random unless told
    try:
        return str(detector_factory.detect(text[:2000]))
    except LangDetectException:
        return None


class _Seen:
    """The examples that were kept so far, by exact text and by MinHash."""

    def __init__(self, threshold: float | None) -> None:
        self._exact: dict[str, Example] = {}
        self._threshold = threshold
        self._shingles: dict[int, tuple[Example, frozenset[str]]] = {}
        if threshold is not None:
            from datasketch import MinHashLSH

            # A little below the threshold: candidates are compared exactly, so only misses would matter.
            self._index: Any = MinHashLSH(threshold=max(0.05, threshold - 0.1), num_perm=_PERMUTATIONS)

    def repeats(self, example: Example) -> tuple[Example | None, str | None]:
        """The earlier example that this one repeats and how, or nothing; then it counts as seen."""
        words = _WORD.findall(example.text.lower())
        key = " ".join(words)
        if key in self._exact:
            return self._exact[key], "duplicate"
        if self._threshold is not None:
            shingles = frozenset(_shingles(words))
            sketch = _sketch(shingles)
            for candidate in sorted(self._index.query(sketch)):
                earlier, theirs = self._shingles[candidate]
                if len(shingles & theirs) >= self._threshold * len(shingles | theirs):
                    return earlier, "near duplicate"
            self._index.insert(len(self._shingles), sketch)
            self._shingles[len(self._shingles)] = (example, shingles)
        self._exact[key] = example
        return None, None


def _shingles(words: Sequence[str]) -> Iterable[str]:
    if len(words) < _SHINGLE:
        return [" ".join(words)]
    return (" ".join(words[i : i + _SHINGLE]) for i in range(len(words) - _SHINGLE + 1))


def _sketch(shingles: Iterable[str]) -> Any:
    from datasketch import MinHash

    sketch = MinHash(num_perm=_PERMUTATIONS, seed=1)
    sketch.update_batch([np.asarray(each.encode()).tobytes() for each in sorted(shingles)])
    return sketch
