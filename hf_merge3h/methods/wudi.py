"""WUDI: the merged delta that differs least from each expert's on the inputs that expert's delta acts on."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..linalg.low_rank import LowRank
from ..linalg.precision import EPS, double, safe_inverse
from ..linalg.svd import block_diagonal, falling_eigh
from ..registry import method
from .arithmetic import Scale

# A task's inputs are estimated by the rows of its delta; the loss sum_t c_t |(D - D_t) D_t^T|_F^2 is quadratic, and its
# minimum solves D (sum c_t D_t^T D_t) = sum c_t D_t D_t^T D_t. Of the solutions, the least is the pseudo-inverse's.


def pseudo_inverse(gram: Float[Tensor, "*batch k k"], m: int, n: int) -> Float[Tensor, "*batch k k"]:
    """G^+ for G = X^T X, without directions under the numerical rank max(m, n) * eps(float32) of X."""
    squares, axes = falling_eigh(gram)
    keep = squares > squares[..., :1] * (max(m, n) * EPS) ** 2
    return (axes * safe_inverse(squares, keep).unsqueeze(-2)) @ axes.mT


def _wudi_factors(deltas: tuple[LowRank, ...], weights: Float[Tensor, "task"], **options: Any) -> LowRank:
    """`wudi` of factors.

    With Y = A_1 .. A_T on top of each other, Y = L Q^T and Q orthonormal (L L^T = Y Y^T), the system is
    N L (L^T M L)^+ Q^T for N = diag(B_t) diag(c_t A_t A_t^T B_t^T B_t) and M = diag(c_t B_t^T B_t).
    """
    m, n = deltas[0].shape[-2:]
    lefts, rights = [], []
    for delta, weight in zip(deltas, double(weights), strict=True):
        right = double(delta.right)
        sizes = torch.linalg.vector_norm(right, dim=-1)
        # Rows of norm 1: how a factorisation shares out sizes must not decide which of its directions count.
        rights.append(right * safe_inverse(sizes, sizes > 0).unsqueeze(-1))
        lefts.append(double(delta.left) * (sizes * weight).unsqueeze(-2))
    inner, outer = [], []
    for left, right in zip(lefts, rights, strict=True):
        gram, across = left.mT @ left, right @ right.mT
        share = _shares((gram * across).sum((-2, -1)))
        inner.append(gram * share)
        outer.append(across @ gram * share)
    span = torch.cat(rights, -2)
    squares, axes = falling_eigh(span @ span.mT)
    known = squares > squares[..., :1] * EPS**2
    roots = squares.sqrt()
    lower = axes * (roots * known).unsqueeze(-2)
    solved = lower @ pseudo_inverse(lower.mT @ block_diagonal(inner) @ lower, m, n)
    back = solved @ (axes * safe_inverse(roots, known).unsqueeze(-2)).mT
    left = torch.cat(lefts, -1) @ (block_diagonal(outer) @ back)
    return LowRank((left * options["scale"]).to(deltas[0].left), span.to(deltas[0].right))


def _shares(squares: Float[Tensor, "batch"]) -> Float[Tensor, "batch 1 1"]:
    """c_t = 1 / |D_t|_F^2, 0 for a zero delta."""
    return safe_inverse(squares, squares > 0)[..., None, None]


@method(
    "wudi",
    title="WUDI-Merging (closed form)",
    paper="arXiv:2503.08099",
    family="spectral",
    matrix_only=True,
    low_rank=_wudi_factors,
    exempt={"identity": "no sum: equal experts at weight 1 each, not 1/T, give that expert"},
)
def wudi(
    deltas: Float[Tensor, "task batch m n"],
    weights: Float[Tensor, "task"],
    *,
    scale: Scale = 1.0,
) -> Float[Tensor, "batch m n"]:
    """The delta that interferes least with each expert's own, on the inputs that expert's rows span.

    D = scale * (sum_t c_t D_t D_t^T D_t) (sum_t c_t D_t^T D_t)^+,  c_t = 1 / |D_t|_F^2,  D_t times w_t first

    Args:
        deltas: task vectors, matrices.
        weights: one for each expert; w_t D_t is what is merged.
        scale: factor of the result.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("wudi")(torch.eye(2).expand(3, 2, 2))
        tensor([[1., 0.],
                [0., 1.]])

    Reference:
        Cheng et al., "Whoever Started the Interference Should End It", ICML 2025, arXiv:2503.08099.

    Note:
        The paper minimises the loss by Adam from the sum of the task vectors; this is its exact least-squares solution
        of least norm. Directions under the numerical rank of the deltas, max(m, n) * eps(float32), count as none.
    """
    m, n = deltas.shape[-2:]
    left = right = double(deltas.new_zeros(()))
    for delta, weight in zip(deltas, double(weights), strict=True):
        term = double(delta) * weight
        gram = term.mT @ term
        share = _shares(gram.diagonal(dim1=-2, dim2=-1).sum(-1))
        right = right + gram * share
        left = left + term @ (gram * share)
    return (left @ pseudo_inverse(right, m, n) * scale).to(deltas)
