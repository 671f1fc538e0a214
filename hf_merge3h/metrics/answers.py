r"""Is the answer to a mathematical question right? GSM8K's and MATH's ways of writing it, and math-verify to compare.

The strict and the flexible score of GSM8K are those of lm-evaluation-harness, so that figures can be set side by side;
the primary one asks whether the answer is mathematically the same.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import bad
from .checks import Items, mean, pair, positive, texts
from .verifier import compare

#: Cobbe et al., arXiv:2110.14168: a solution ends with `#### answer`
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_HASHES = re.compile(r"####[ \t]*(\S[^\n]*)")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_FORMATS = ("gsm8k", "math")


def score(predictions: Any, references: Any, *, answer_format: str = "gsm8k", timeout: float = 10.0) -> Items:
    r"""Whether each answer is right, by three rules.

    `correct`: math-verify finds the answer equal to the gold one. The answer is what follows `####` (GSM8K) or stands
        in the last `\boxed{}` (MATH); without these, what math-verify takes for the final answer.
    `strict`: GSM8K: the first `#### number` is the gold one, as text. MATH: the last `\boxed{}` is, but for spacing.
    `flexible`: GSM8K: the last number is the gold one, as text. MATH: math-verify over the whole text.

    Args:
        predictions: answers, cut at the stop strings of their prompt.
        references: GSM8K solutions with `#### answer`, or MATH answers (or solutions with `\boxed{answer}`).
        answer_format: "gsm8k" or "math".
        timeout: seconds for one comparison; one that takes longer counts as not parsed.

    Returns:
        One dict an answer: `correct`, `strict`, `flexible`, `parsed`.

    Raises:
        RequestError: an answer is no text, or a reference holds no answer.

    Example:
        >>> score(["So she has 1,000 left.\n#### 1,000"], ["500 * 2 = 1000\n#### 1000"])
        [{'correct': True, 'strict': True, 'flexible': True, 'parsed': True}]
        >>> score([r"Half of it: $\boxed{0.5}$"], [r"\frac{1}{2}"], answer_format="math")
        [{'correct': True, 'strict': False, 'flexible': True, 'parsed': True}]
    """
    if answer_format not in _FORMATS:
        raise bad("answer_format", answer_format, '"gsm8k" or "math"')
    timeout = positive("timeout", timeout)
    predictions, references = pair(predictions, references, "answers as text", "gold answers as text")
    texts("predictions", predictions)
    texts("references", references, "each needs its gold answer")
    find, one = (_gsm8k_gold, _gsm8k) if answer_format == "gsm8k" else (_math_gold, _math)
    gold = [find(index, reference) for index, reference in enumerate(references)]
    return [one(answer, expected, timeout) for answer, expected in zip(predictions, gold, strict=True)]


def summarise(items: Items) -> dict[str, float]:
    """Shares of answers that are right by each rule, and of those in which an answer was found."""
    return {
        "accuracy": mean(item["correct"] for item in items),
        "accuracy_strict": mean(item["strict"] for item in items),
        "accuracy_flexible": mean(item["flexible"] for item in items),
        "parse_rate": mean(item["parsed"] for item in items),
    }


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{}` whose braces close, or None.

    >>> last_boxed(r"\boxed{1}, no: \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    for match in reversed(list(_BOX.finditer(text))):
        depth = 1
        for end in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            if depth == 0:
                return text[match.end() : end]
    return None


def _gsm8k_gold(index: int, reference: str) -> str:
    found = _HASHES.findall(reference)
    if not found:
        raise bad(f"references[{index}]", reference, "a GSM8K solution that ends in `#### answer`")
    return str(found[-1]).strip()


def _gsm8k(answer: str, gold: str, timeout: float) -> dict[str, Any]:
    first, numbers = _STRICT.search(answer), _NUMBER.findall(answer)
    last = next(group for group in numbers[-1] if group) if numbers else None
    written = _HASHES.search(answer)
    verdict = compare(
        f"${gold.replace(',', '')}$", _without_thousands(written.group(1) if written else answer), timeout
    )
    return {
        "correct": verdict["correct"],
        "strict": first is not None and _same_number(first.group(1), gold),
        "flexible": last is not None and _same_number(last, gold),
        "parsed": verdict["parsed"],
    }


def _without_thousands(text: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)


def _same_number(found: str, gold: str) -> bool:
    """Equal as text but for thousands separators, dollars and a full stop at the end: the harness' comparison."""
    plain = [re.sub(r"\.$", "", re.sub(r"[,$]", "", text)).strip().lower() for text in (found, gold)]
    return plain[0] == plain[1]


def _math_gold(index: int, reference: str) -> str:
    gold = last_boxed(reference)
    gold = reference if gold is None else gold
    if not gold.strip():
        raise bad(f"references[{index}]", reference, r"a MATH answer, or a solution with \boxed{answer}")
    return gold.strip()


def _math(answer: str, gold: str, timeout: float) -> dict[str, Any]:
    boxed = last_boxed(answer)
    strict = boxed is not None and _spaceless(boxed) == _spaceless(gold)
    target = rf"$\boxed{{{gold}}}$"
    whole = compare(target, answer, timeout)
    verdict = whole if boxed is None else compare(target, rf"$\boxed{{{boxed}}}$", timeout)
    return {
        "correct": strict or verdict["correct"],
        "strict": strict,
        "flexible": strict or whole["correct"],
        "parsed": strict or verdict["parsed"],
    }


def _spaceless(latex: str) -> str:
    r"""The same but for spacing, sizes and dollars.

    >>> _spaceless(r"\left( \dfrac{1}{2},\ 3 \right)") == _spaceless(r"(\frac{1}{2},3)")
    True
    """
    latex = re.sub(r"\\(?:left|right|bigl|bigr|,|;|:|!| |quad)(?![a-zA-Z])", "", latex.strip().rstrip("."))
    latex = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", latex)
    return re.sub(r"[\s$]|\\\$", "", latex)
