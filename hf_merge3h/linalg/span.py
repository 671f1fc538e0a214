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
from jaxtyping import Bool, Float
from torch import Tensor

from .low_rank import LowRank
from .precision import double

#: Float32 may add up products whose magnitudes sum to so many times the result's.
_CANCELLATION = 8.0


@dataclass(frozen=True, eq=False)
class Span:
    """The factors of all terms side by side, and their Gram matrices.

    Attributes:
        terms: whose factors these are.
        left: [batch, m, p].
        right: [batch, p, n].
        gram_left, gram_right: left^T left and right right^T, [batch, p, p], float64.
    """

    terms: tuple[LowRank, ...]
    left: Float[Tensor, "batch m p"]
    right: Float[Tensor, "batch p n"]
    gram_left: Float[Tensor, "batch p p"]
    gram_right: Float[Tensor, "batch p p"]

    @classmethod
    def of(cls, terms: Sequence[LowRank]) -> Span:
        """The span of some matrices of one shape, batched alike."""
        left, right = torch.cat([term.left for term in terms], -1), torch.cat([term.right for term in terms], -2)
        exact_left, exact_right = double(left), double(right)
        return cls(tuple(terms), left, right, exact_left.mT @ exact_left, exact_right @ exact_right.mT)

    @property
    def own(self) -> list[slice]:
        """Where each term's factors lie."""
        ends = torch.tensor([0, *(term.rank for term in self.terms)]).cumsum(0).tolist()
        return [slice(start, end) for start, end in pairwise(ends)]

    def combine(
        self, over_left: Float[Tensor, "batch p k"], over_right: Float[Tensor, "batch p k"], like: Tensor
    ) -> Combination:
        """(left C_l) (C_r^T right), in the dtype and on the device of `like`.

        In float32 where nothing cancels, in float64 for the matrices where it does.
        """
        image_left, image_right = self.gram_left @ over_left, self.gram_right @ over_right
        left, right = self.left @ over_left.to(self.left), over_right.mT.to(self.right) @ self.right
        hard = _cancels(over_left, self.gram_left, image_left) | _cancels(over_right, self.gram_right, image_right)
        if hard.any() and left.dtype != torch.float64:
            at = hard.to(left.device)
            left[at] = (double(self.left[at]) @ over_left[hard]).to(left)
            right[at] = (over_right[hard].mT @ double(self.right[at])).to(right)
        return Combination(left.to(like), right.to(like), self, over_left, over_right, image_left, image_right)


@dataclass(frozen=True, eq=False)
class Combination(LowRank):
    """A product of factors that lie in a span; what is computed from it (a part, a multiple) is a plain `LowRank`."""

    span: Span
    over_left: Float[Tensor, "batch p k"]
    over_right: Float[Tensor, "batch p k"]
    image_left: Float[Tensor, "batch p k"]
    image_right: Float[Tensor, "batch p k"]

    def gram(self) -> Float[Tensor, "batch n n"]:
        """Inner products of the span's terms and, last, this matrix, float64.

        Example:
            >>> span = Span.of([LowRank(torch.eye(2)[None, :, :1], torch.eye(2)[None, :1] * 3)])
            >>> span.combine(torch.full((1, 1, 1), 2.0).double(), torch.ones(1, 1, 1).double(), torch.ones(1)).gram()
            tensor([[[ 9., 18.],
                     [18., 36.]]], dtype=torch.float64)
        """
        span, n = self.span, len(self.span.terms)
        result = span.gram_left.new_zeros(len(span.gram_left), n + 1, n + 1)
        pick = result.new_zeros(n, span.gram_left.shape[-1])
        for row, own in zip(pick, span.own, strict=True):
            row[own] = 1
        result[:, :n, :n] = pick @ (span.gram_left * span.gram_right) @ pick.mT
        result[:, n, :n] = result[:, :n, n] = (pick @ (self.image_left * self.image_right)).sum(-1)
        inner = (self.over_left.mT @ self.image_left) * (self.over_right.mT @ self.image_right)
        result[:, n, n] = inner.sum((-2, -1))
        return result


def _cancels(
    over: Float[Tensor, "batch p k"], gram: Float[Tensor, "batch p p"], image: Float[Tensor, "batch p k"]
) -> Bool[Tensor, "batch"]:
    """In which matrices float32 would not do for Y C, told from C, Y^T Y and Y^T Y C.

    A column's products add up to at most sum_i |y_i| |c_ij|, which is compared with the norm of the result's column.
    """
    summed = (gram.diagonal(dim1=-2, dim2=-1).sqrt().unsqueeze(-1) * over.abs()).sum(-2)
    size = (over * image).sum(-2).clamp_min(0).sqrt()
    return (summed > _CANCELLATION * size).any(-1)
