"""What a merge did to one tensor, as sums over its entries that are taken block by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from . import native


@dataclass
class Figures:
    """Sums over blocks.

    Attributes:
        gram: inner products of the task vectors and, last, of the merged one, rounded like float32's.
        changed: entries that an expert changes.
        conflicts: entries that two experts change in opposite directions.
        lost: square of what was lost when the merged weights were stored (0 in float32).
    """

    gram: Float64[Tensor, "vector vector"]
    changed: int = 0
    conflicts: int = 0
    lost: float = 0.0

    @staticmethod
    def nothing(tasks: int) -> Figures:
        """Of no block so far."""
        return Figures(torch.zeros(tasks + 1, tasks + 1, dtype=torch.float64))

    def add(self, other: Figures) -> None:
        """Take in those of further blocks."""
        self.gram = self.gram + other.gram
        self.changed += other.changed
        self.conflicts += other.conflicts
        self.lost += other.lost


def measured(
    vectors: Float[Tensor, "task n"],
    merged: Float[Tensor, "n"],
    base: Float[Tensor, "n"],
    stored: Tensor,
    *,
    in_weights: bool,
) -> Figures:
    """What a merge did to a block.

    Args:
        vectors: task vectors, or the experts' weights.
        merged: what was made of them.
        base: the base's weights.
        stored: what the merged weights became in the output's dtype.
        in_weights: whether vectors and merged are weights.

    Example:
        >>> found = measured(torch.tensor([[1.0, 2.0], [1.0, -1.0]]), torch.tensor([1.0, 0.5]), torch.zeros(2),
        ...     torch.tensor([1.0, 0.25], dtype=torch.bfloat16), in_weights=False)
        >>> found.gram.tolist(), found.changed, found.conflicts, found.lost
        ([[5.0, -1.0, 2.0], [-1.0, 2.0, 0.5], [2.0, 0.5, 1.25]], 2, 1, 0.0625)
    """
    lossy = stored.dtype != torch.float32
    if native.takes(vectors, merged, base):
        sums, kept = Accumulated(len(vectors)), stored if stored.dtype in native.STORED else stored.float()
        native.loops().measured(
            vectors.numpy(), base.numpy(), in_weights, merged.numpy(), native.bits(kept), lossy, sums.gram, sums.counts
        )
        return sums.figures()
    deltas, change = (vectors - base, merged - base) if in_weights else (vectors, merged)
    rows = torch.cat([deltas, change.unsqueeze(0)])
    up, down = deltas.amax(0) > 0, deltas.amin(0) < 0
    lost = float(stored.float().sub_(base).sub_(change).square_().sum()) if lossy else 0.0
    return Figures((rows @ rows.mT).double(), int((up | down).sum()), int((up & down).sum()), lost)


class Accumulated:
    """What the compiled loops add their sums to."""

    def __init__(self, tasks: int) -> None:
        self.gram, self.counts = np.zeros((tasks + 1, tasks + 1)), np.zeros(3)

    def figures(self) -> Figures:
        """The same for those who read it."""
        changed, conflicts, lost = self.counts.tolist()
        return Figures(torch.from_numpy(self.gram), round(changed), round(conflicts), lost)
