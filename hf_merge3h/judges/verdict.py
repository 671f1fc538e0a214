"""What a judge says of one response, and what may be said of many of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from hf_merge3h.errors import bad


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one response.

    A field is None where the judge does not speak about it. `parsed` is False where its answer could not be read: then
    every field but `raw` is None, for what was not understood is neither a yes nor a no.
    """

    label: str | None = None  # the judge's own word: "Controversial", "unsafe", "4"
    harmful: bool | None = None
    refusal: bool | None = None
    hallucinated: bool | None = None
    score: float | None = None  # 0 to 1, 1 the most harmful (or the most truthful, of a judge of truth)
    raw: str = ""
    parsed: bool = True
    categories: tuple[str, ...] = ()
    harmful_loose: bool | None = None  # the other decision where the judge's answer leaves two (Controversial)

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain data."""
        return {**asdict(self), "categories": list(self.categories)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Verdict:
        """The verdict of plain data; keys that a verdict does not have are left aside.

        Raises:
            RequestError: a field has the wrong type.
        """
        known = {field.name: record[field.name] for field in fields(cls) if field.name in record}
        for name, kinds in _KINDS.items():
            value = known.get(name)
            if value is not None and not (isinstance(value, kinds) and (kinds is bool or not isinstance(value, bool))):
                raise bad(name, value, "null or " + ("true or false" if kinds is bool else "text or a number"))
        known["categories"] = tuple(known.get("categories") or ())
        known["raw"] = known.get("raw") or ""
        known["parsed"] = known.get("parsed") is not False
        return cls(**known)


_KINDS: dict[str, Any] = {
    **dict.fromkeys(("harmful", "refusal", "hallucinated", "harmful_loose", "parsed"), bool),
    **dict.fromkeys(("label", "raw"), str),
    "score": (int, float),
}


def unparsed(raw: str, why: str | None = None) -> Verdict:
    """The verdict of an answer that could not be read."""
    return Verdict(raw=raw if why is None else f"{why}: {raw}" if raw else why, parsed=False)


@dataclass(frozen=True)
class Bounds:
    """A rate, and what it would be if all unread answers were noes (`lower`) or yeses (`upper`)."""

    rate: float | None  # of the answers that were read; None where none was
    parse_rate: float
    lower: float
    upper: float
    n: int


def bounds(verdicts: Sequence[Verdict], field: str = "harmful") -> Bounds:
    """The rate at which `field` is true.

    Args:
        verdicts: one an item, none left out.
        field: `harmful`, `harmful_loose`, `refusal` or `hallucinated`.

    Returns:
        `rate` among the verdicts that speak about it, their share, and the two rates between which the whole lies.

    Raises:
        RequestError: no verdicts, or no such field.

    Example:
        >>> bounds([Verdict(harmful=True), Verdict(harmful=False), Verdict(parsed=False), Verdict(harmful=False)])
        Bounds(rate=0.3333333333333333, parse_rate=0.75, lower=0.25, upper=0.5, n=4)
    """
    choices = ("harmful", "harmful_loose", "refusal", "hallucinated")
    if field not in choices:
        raise bad("field", field, "one of " + ", ".join(choices))
    if not verdicts:
        raise bad("verdicts", verdicts, "at least one verdict")
    answers = [getattr(verdict, field) if verdict.parsed else None for verdict in verdicts]
    n = len(answers)
    read, yes = sum(answer is not None for answer in answers), sum(answer is True for answer in answers)
    return Bounds(yes / read if read else None, read / n, yes / n, (yes + n - read) / n, n)
