"""What an inspection found: plain data that prints itself."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

#: Leading directions of a change that are looked for.
SKETCH = 32


@dataclass(frozen=True)
class Block:
    """Tensors of one block of the model, as if they were one long vector.

    Attributes:
        name: what their names share.
        tensors, numbers: how many tensors and entries.
        norm: Frobenius norm of the merge's change of the base.
        relative: the same, relative to the base's norm.
        unchanged: share of the entries that are the base's, bit by bit.
        cosines: of the change with each expert's; NaN where one is zero.
        rank: mean numerical rank of the matrices' changes; None where one has more than the sketch can tell.
        energy: share of the squared norm of the matrices' changes in their leading directions, `SKETCH` each.
        parts: how much of each expert explains the change best, none of them negative.
        residual: norm of what they do not explain, relative to the change's.
    """

    name: str
    tensors: int
    numbers: int
    norm: float
    relative: float
    unchanged: float
    cosines: tuple[float, ...]
    rank: float | None
    energy: float | None
    parts: tuple[float, ...]
    residual: float


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        place, base, experts: what was looked at, as given.
        roles: names of the experts.
        total: the whole model as one block.
        blocks: in natural order.
        skipped: tensors that could not be compared, and why.
    """

    place: str
    base: str
    experts: tuple[str, ...]
    roles: tuple[str, ...]
    total: Block
    blocks: tuple[Block, ...]
    skipped: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain data; undefined numbers are None."""
        return _defined(asdict(self))

    def __str__(self) -> str:
        head = ["block", "norm", "relative", "unchanged", "rank", f"top-{SKETCH}"]
        head += [f"cos {role}" for role in self.roles] + [f"x {role}" for role in self.roles]
        rows = [head, *map(self._row, [*self.blocks, self.total])]
        if self.roles:
            for row, block in zip(rows[1:], [*self.blocks, self.total], strict=True):
                row.append("" if math.isnan(block.residual) else f"{block.residual:.1%}")
            head.append("unexplained")
        widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
        lines = [f"{self.place} as a change of {self.base}"]
        for row in rows:
            cells = (
                f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}"
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  " + "  ".join(cells).rstrip())
        lines += [self.summary(), *(f"not compared: {each}" for each in self.skipped[:10])]
        if len(self.skipped) > 10:
            lines.append(f"not compared: {len(self.skipped) - 10} more")
        return "\n".join(line for line in lines if line)

    def _row(self, block: Block) -> list[str]:
        return [
            block.name,
            f"{block.norm:.3g}",
            f"{block.relative:.2%}",
            f"{block.unchanged:.1%}",
            "" if block.rank is None else f"{block.rank:.3g}",
            "" if block.energy is None else f"{block.energy:.1%}",
            *("" if math.isnan(each) else f"{each:+.3f}" for each in block.cosines),
            *(f"{each:.3f}" for each in block.parts),
        ]

    def summary(self) -> str:
        """In a sentence: what it is made of."""
        if not self.total.norm:
            return "it equals the base"
        if not self.roles:
            return ""
        parts = [
            f"{part:.3g} of {role}" for role, part in zip(self.roles, self.total.parts, strict=True) if part > 1e-3
        ]
        if not parts:
            return "none of these experts explains it"
        said = f"best explained as {' + '.join(parts)}; {self.total.residual:.1%} of the change's norm is left over"
        if self.total.residual > 0.5:
            said += ": something else is in it, or a method that is not linear"
        return said


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _defined(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_defined(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
