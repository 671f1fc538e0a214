"""`LowRank`: a matrix that was never multiplied out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .precision import double


@dataclass(frozen=True, eq=False)
class LowRank:
    """The product `left @ right` of shape [*batch, m, n], kept as its factors.

    A LoRA update is one: left = scaling * B, right = A. A zero delta is one of rank 0.

    Args:
        left: [*batch, m, r].
        right: [*batch, r, n].

    Raises:
        ValueError: the factors do not fit together.

    Example:
        >>> delta = LowRank(torch.ones(4, 1), torch.ones(1, 3))
        >>> delta.shape, delta.rank
        (torch.Size([4, 3]), 1)
        >>> (2 * delta).dense().sum().item()
        24.0
    """

    left: Float[Tensor, "*batch m r"]
    right: Float[Tensor, "*batch r n"]

    def __post_init__(self) -> None:
        left, right = self.left.shape, self.right.shape
        if len(left) < 2 or left[:-2] != right[:-2] or left[-1] != right[-2]:
            raise ValueError(f"factors of shapes {tuple(left)} and {tuple(right)} do not fit: [*b, m, r], [*b, r, n]")

    @classmethod
    def zeros(
        cls, shape: Sequence[int], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> LowRank:
        """The zero matrix [*batch, m, n], of rank 0."""
        *batch, m, n = shape
        return cls(
            torch.zeros(*batch, m, 0, device=device, dtype=dtype), torch.zeros(*batch, 0, n, device=device, dtype=dtype)
        )

    @classmethod
    def cat(cls, terms: Sequence[LowRank]) -> LowRank:
        """The sum of several, exact: left factors side by side, right factors on top of each other."""
        return cls(torch.cat([term.left for term in terms], -1), torch.cat([term.right for term in terms], -2))

    @classmethod
    def stack(cls, terms: Sequence[LowRank]) -> LowRank:
        """Several of one shape as one batch [batch, m, n]; lower ranks are padded with zeros (it changes nothing)."""
        rank = max(term.rank for term in terms)
        left = torch.stack([torch.nn.functional.pad(term.left, (0, rank - term.rank)) for term in terms])
        right = torch.stack([torch.nn.functional.pad(term.right, (0, 0, 0, rank - term.rank)) for term in terms])
        return cls(left, right)

    @property
    def shape(self) -> torch.Size:
        """[*batch, m, n]."""
        return torch.Size((*self.left.shape[:-1], self.right.shape[-1]))

    @property
    def ndim(self) -> int:
        """Number of dimensions of the matrix it stands for, batch included."""
        return len(self.shape)

    @property
    def rank(self) -> int:
        """Number of columns of the left factor: an upper bound of the rank of the product."""
        return self.left.shape[-1]

    @property
    def device(self) -> torch.device:
        """Where the factors lie."""
        return self.left.device

    @property
    def dtype(self) -> torch.dtype:
        """The factors' dtype."""
        return self.left.dtype

    @property
    def mT(self) -> LowRank:
        """The transpose."""
        return LowRank(self.right.mT, self.left.mT)

    def dense(self) -> Float[Tensor, "*batch m n"]:
        """Multiply out."""
        return self.left @ self.right

    def rows(self, index: Tensor) -> Float[Tensor, "*batch k n"]:
        """The rows `index` [k] of the product, and nothing else of it."""
        return self.left.index_select(-2, index) @ self.right

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> LowRank:
        """Move or convert both factors."""
        return LowRank(self.left.to(device=device, dtype=dtype), self.right.to(device=device, dtype=dtype))

    def __mul__(self, factor: float | int | Tensor) -> LowRank:
        """Scale by a number, or by one number for each matrix of the batch ([*batch])."""
        if isinstance(factor, Tensor) and factor.ndim:
            factor = factor[..., None, None]
        return LowRank(self.left * factor, self.right)

    __rmul__ = __mul__

    def __getitem__(self, index: int | slice | Tensor) -> LowRank:
        """Index the batch."""
        return LowRank(self.left[index], self.right[index])

    def flatten(self) -> LowRank:
        """[a, b, m, n] as one batch [a b, m, n]."""
        return LowRank(self.left.flatten(0, 1), self.right.flatten(0, 1))

    def unflatten(self, sizes: tuple[int, int]) -> LowRank:
        """[a b, m, n] as [a, b, m, n]."""
        return LowRank(self.left.unflatten(0, sizes), self.right.unflatten(0, sizes))

    def inner(self, other: LowRank) -> Float[Tensor, "*batch"]:
        """Frobenius inner product of the products, float64: <B A, D C> = <B^T D, A C^T>."""
        left = double(self.left).mT @ double(other.left)
        right = double(self.right) @ double(other.right).mT
        return (left * right).sum((-2, -1))

    def norm(self) -> Float[Tensor, "*batch"]:
        """Frobenius norm of the product, float64."""
        return self.inner(self).clamp_min(0).sqrt()


def norms(delta: Float[Tensor, "*batch m n"] | LowRank) -> Float[Tensor, "*batch"]:
    """Frobenius norms of matrices, dense or as factors, float64.

    >>> norms(torch.tensor([[[3.0, 4.0]]]))
    tensor([5.], dtype=torch.float64)
    """
    return delta.norm() if isinstance(delta, LowRank) else torch.linalg.vector_norm(double(delta), dim=(-2, -1))
