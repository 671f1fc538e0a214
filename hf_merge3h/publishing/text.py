"""Text of a manifest made safe for Markdown: nothing in it can end a fence, a table cell, a comment or the card.

A manifest may come from a stranger. Templates print every value through `escape`; only the functions here make
`Markdown`, which is printed as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

#: What a card says of facts that nobody noted.
NOT_RECORDED = "not recorded"
_LONGEST = 300
_MINUS = "\u2212"
_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$!])")
#: Characters that have no business on one line of text: controls, directions, zero widths.
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def one_line(value: Any, longest: int = _LONGEST) -> str:
    """Any value as one line of visible text, cut to a length."""
    text = " ".join(_INVISIBLE.sub(" ", str(value)).split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def escape(value: Any) -> Markdown:
    """Any value as text that Markdown and HTML take literally.

    >>> escape("<script>*x*</script> | [a](b)")
    '&lt;script&gt;\\\\*x\\\\*&lt;/script&gt; \\\\| \\\\[a\\\\](b)'
    """
    if isinstance(value, Markdown):
        return value
    if value is None:
        return Markdown(NOT_RECORDED)
    text = one_line(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markdown(_SPECIAL.sub(r"\\\1", text))


def code(value: Any) -> Markdown:
    """A code span.

    >>> code("a`b")
    '`` a`b ``'
    """
    if value is None or value == NOT_RECORDED:
        return Markdown(NOT_RECORDED)
    text = one_line(value)
    if not text:
        return Markdown("(empty)")
    ticks = "`" * (_longest_run(text) + 1)
    pad = " " if text[0] in "` " or text[-1] in "` " or len(ticks) > 1 else ""
    return Markdown(f"{ticks}{pad}{text}{pad}{ticks}")


def fence(text: str, language: str) -> Markdown:
    """A code block that nothing in the text can close, and in which no line looks like a marker of a card."""
    ticks = "`" * max(3, _longest_run(text) + 1)
    lines = [line if not line.startswith("<!--") else f" {line}" for line in text.strip("\n").splitlines()]
    return Markdown("\n".join([f"{ticks}{language}", *lines, ticks]))


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)


def number(value: Any, digits: int = 3, *, aligned: bool = False) -> Markdown:
    """A number with a few significant digits; "not recorded" where there is none.

    >>> number(0.123456), number(float("nan")), number(12345), number(2.5, aligned=True)
    ('0.123', 'not recorded', '12345', '2.50')
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return Markdown(NOT_RECORDED)
    if isinstance(value, int) and abs(value) < 10**15:
        return Markdown(str(value))
    # aligned: zeros at the end stay, so that a column of them is read at one glance
    return Markdown(f"{value:#.{digits}g}".rstrip(".") if aligned else f"{value:.{digits}g}")


def fixed(value: Any, places: int = 3, *, signed: bool = False) -> Markdown:
    """A number with a fixed number of decimals."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return Markdown(NOT_RECORDED)
    return Markdown(f"{value:{'+' if signed else ''}.{places}f}".replace("-", _MINUS))


def percent(value: Any, places: int = 0) -> Markdown:
    """A share as a percentage."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return Markdown(NOT_RECORDED)
    return Markdown(f"{100 * value:.{places}f} %")


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], left: int = 1) -> Markdown:
    """A table; the first `left` columns are text, the rest are numbers and stand to the right.

    A column in which nothing stands is left out.
    """
    rows = list(rows)
    shown = [place for place in range(len(head)) if not rows or any(row[place] != "" for row in rows)]
    head, rows = [head[place] for place in shown], [[row[place] for place in shown] for row in rows]
    left = sum(place < left for place in shown)
    lines = ["| " + " | ".join(_cell(each) for each in head) + " |"]
    lines.append("|" + "|".join(" --- " if column < left else " ---: " for column in range(len(head))) + "|")
    lines += ["| " + " | ".join(_cell(each) for each in row) + " |" for row in rows]
    return Markdown("\n".join(lines))


def _cell(value: Any) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", escape(value))


def kind_name(kind: Any) -> str:
    """What a card calls a kind of obligation.

    >>> kind_name("non_commercial"), kind_name("state_changes")
    ('non-commercial', 'state changes')
    """
    return re.sub(r"^(non|share)_", r"\1-", str(kind)).replace("_", " ")


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def is_hub_id(text: Any) -> bool:
    """Whether a text is spelled like `owner/name` on the Hub."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None and ".." not in text and "--" not in text


def link(text: Any, target: str) -> Markdown:
    """A link to a web page; plain text where the target is none."""
    if not re.fullmatch(r"https://[A-Za-z0-9._~:/?#@%&=+,;-]{1,300}", target):
        return escape(text)
    return Markdown(f"[{escape(text)}]({target})")
