"""Several matrices as factors side by side: merges of them are coefficients, and small Gram matrices tell the rest.

Every spectral merge of LoRA adapters is left C_l (right^T C_r)^T with `left` [m, p] and `right` [p, n] the experts' own
factors. Norms, inner products and singular values of all of them follow from left^T left and right right^T [p, p]; the
tall factors are read twice, whatever is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from .low_rank import LowRank
from .precision import double


@dataclass(frozen=True, eq=False)
class Span:
    """The factors of all terms side by side, float64, and their Gram matrices.

    Attributes:
        terms: whose factors these are.
        left: [batch, m, p].
        right: [batch, p, n].
        gram_left, gram_right: left^T left and right right^T, [batch, p, p].
    """

    terms: tuple[LowRank, ...]
    left: Float[Tensor, "batch m p"]
    right: Float[Tensor, "batch p n"]
    gram_left: Float[Tensor, "batch p p"]
    gram_right: Float[Tensor, "batch p p"]

    @classmethod
    def of(cls, terms: Sequence[LowRank]) -> Span:
        """The span of some matrices of one shape, batched alike."""
        left = _joined([term.left for term in terms], -1)
        right = _joined([term.right for term in terms], -2)
        return cls(tuple(terms), left, right, left.mT @ left, right @ right.mT)

    @property
    def own(self) -> list[slice]:
        """Where each term's factors lie."""
        ends = torch.tensor([0, *(term.rank for term in self.terms)]).cumsum(0).tolist()
        return [slice(start, end) for start, end in pairwise(ends)]

    def combine(
        self, over_left: Float[Tensor, "batch p k"], over_right: Float[Tensor, "batch p k"], like: Tensor
    ) -> Combination:
        """(left C_l) (C_r^T right), in the dtype and on the device of `like`."""
        return Combination(
            (self.left @ over_left).to(like), (over_right.mT @ self.right).to(like), self, over_left, over_right
        )


@dataclass(frozen=True, eq=False)
class Combination(LowRank):
    """A product of factors that lie in a span; what is computed from it (a part, a multiple) is a plain `LowRank`."""

    span: Span
    over_left: Float[Tensor, "batch p k"]
    over_right: Float[Tensor, "batch p k"]

    def gram(self) -> Float[Tensor, "batch n n"]:
        """Inner products of the span's terms and, last, this matrix, float64.

        Example:
            >>> span = Span.of([LowRank(torch.eye(2)[None, :, :1], torch.eye(2)[None, :1] * 3)])
            >>> span.combine(torch.full((1, 1, 1), 2.0).double(), torch.ones(1, 1, 1).double(), torch.ones(1)).gram()
            tensor([[[ 9., 18.],
                     [18., 36.]]], dtype=torch.float64)
        """
        span = self.span
        left, right = span.gram_left @ self.over_left, span.gram_right @ self.over_right
        n = len(span.terms)
        result = left.new_zeros(len(left), n + 1, n + 1)
        entries, across = span.gram_left * span.gram_right, left * right
        for i, rows in enumerate(span.own):
            for j, columns in enumerate(span.own):
                result[:, i, j] = entries[:, rows, columns].sum((-2, -1))
            result[:, i, n] = result[:, n, i] = across[:, rows].sum((-2, -1))
        result[:, n, n] = ((self.over_left.mT @ left) * (self.over_right.mT @ right)).sum((-2, -1))
        return result


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """`torch.cat` in float64, in one pass."""
    first, sizes = double(parts[0][:0]), [part.shape[axis] for part in parts]
    shape = list(parts[0].shape)
    shape[axis] = sum(sizes)
    result = first.new_empty(shape)
    for part, place in zip(parts, result.split(sizes, axis), strict=True):
        place.copy_(part.to(result.device))
    return result
