"""What a mixture is made of, as plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MixReport:
    """What `mix_data` did.

    Attributes:
        strategy, reference, note: the technique, its source, and what must be said with it.
        seed: as given.
        proportions: share of each set in the mixture that was aimed at.
        available, kept, drawn: rows of each set at first, after cleaning, and in the mixture.
        dropped: set -> reason -> rows of that set.
        overlaps: "a & b" -> examples of b that repeat one of a.
        scores: set -> least, median and greatest score, the least that was chosen, and how many could not be chosen
            ("score" only).
        trajectory: the proportions after each step of the proxy ("adaptive" only).
        signals: what moved them ("adaptive" only).
        cosines: between the sets' gradients, in the sets' order ("adaptive" by "alignment" only).
    """

    strategy: str
    reference: str
    note: str
    seed: int
    proportions: dict[str, float]
    available: dict[str, int]
    kept: dict[str, int]
    drawn: dict[str, int]
    dropped: dict[str, dict[str, list[int]]]
    overlaps: dict[str, int]
    scores: dict[str, dict[str, float]] | None = None
    trajectory: list[dict[str, float]] | None = None
    signals: list[dict[str, float]] | None = None
    cosines: list[list[float]] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain dicts, lists and numbers."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        names = list(self.proportions)
        width = max(map(len, [*names, "set"]))
        lines = [f"MixReport: {self.strategy} ({self.reference}), seed {self.seed}"]
        lines.append(f"  {'set':<{width}}  share  drawn   kept     of  dropped")
        for name in names:
            reasons = ", ".join(f"{len(rows)} {reason}" for reason, rows in self.dropped[name].items())
            lines.append(
                f"  {name:<{width}}  {self.proportions[name]:5.1%}  {self.drawn[name]:5d}  {self.kept[name]:5d}  "
                f"{self.available[name]:5d}  {reasons}".rstrip()
            )
        for pair, count in self.overlaps.items():
            lines.append(f"  overlap {pair}: {count}")
        for name, score in (self.scores or {}).items():
            lines.append(f"  scores of {name}: median {score['median']:.3g}, chosen from {score['cutoff']:.3g} up")
        for name, row in zip(names, self.cosines or [], strict=False):
            lines.append(f"  gradient cosines of {name}: " + "  ".join(f"{value:+.3f}" for value in row))
        return "\n".join([*lines, f"note: {self.note}"])
