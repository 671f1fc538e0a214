"""WUDI: the merged delta that differs least from each expert's on the inputs that expert's delta acts on."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..linalg.low_rank import LowRank
from ..linalg.precision import EPS, double, safe_inverse
from ..linalg.svd import block_diagonal, falling_eigh
from ..registry import Range, method
from .arithmetic import Scale

# A task's inputs are estimated by the rows of its delta; the loss sum_t c_t |(D - D_t) D_t^T|_F^2 is quadratic, and
# its minimum solves D (sum c_t D_t^T D_t) = sum c_t D_t D_t^T D_t. Of the solutions, the least is the pseudo-
# inverse's. Where the experts' spectra fall far, as those of whole fine-tunes do, it is divided by next to nothing and
# many times as large as any D_t; `ridge` adds r |D - sum_t D_t|^2 to the loss, which binds just those directions to
# the sum.


def inverse(gram: Float[Tensor, "*batch k k"], m: int, n: int, ridge: float) -> Float[Tensor, "*batch k k"]:
    """(G + ridge I)^-1 for G = X^T X, or G^+ without directions under X's numerical rank, max(m, n) * eps(float32)."""
    squares, axes = falling_eigh(gram)
    keep = (squares > squares[..., :1] * (max(m, n) * EPS) ** 2) | (ridge > 0)
    return (axes * safe_inverse(squares.clamp(min=0) + ridge, keep).unsqueeze(-2)) @ axes.mT


def _wudi_factors(deltas: tuple[LowRank, ...], weights: Float[Tensor, "task"], **options: Any) -> LowRank:
    """`wudi` of factors.

    With Y = A_1 .. A_T on top of each other, Y = L Q^T and Q orthonormal (L L^T = Y Y^T), the system is
    N L (L^T M L + r I)^+ Q^T for N = diag(B_t) (diag(c_t A_t A_t^T B_t^T B_t) + r I) and M = diag(c_t B_t^T B_t).
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
    ridge = options["ridge"]
    solved = lower @ inverse(lower.mT @ block_diagonal(inner) @ lower, m, n, ridge)
    back = solved @ (axes * safe_inverse(roots, known).unsqueeze(-2)).mT
    left = torch.cat(lefts, -1) @ (block_diagonal(outer) @ back + ridge * back)
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
    ridge: Annotated[float, Range(0, high_open=True)] = 0.0,
    scale: Scale = 1.0,
) -> Float[Tensor, "batch m n"]:
    """The delta that interferes least with each expert's own, on the inputs that expert's rows span.

    D = scale * (sum_t c_t D_t D_t^T D_t + r sum_t D_t) (sum_t c_t D_t^T D_t + r I)^+,  c_t = 1 / |D_t|_F^2,
    D_t times w_t first,  r = ridge

    Args:
        deltas: task vectors, matrices.
        weights: one for each expert; w_t D_t is what is merged.
        ridge: pull towards the sum of the task vectors, beside an interference whose curvatures add up to the number of
            experts: 0 for the exact solution; above 1 the result is close to the sum.
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
        The paper minimises the loss by Adam from the sum of the task vectors and stops early; this is its exact
        least-squares solution of least norm, or, with a ridge (ours), one near the sum where the loss is flat. Without
        a ridge, directions under the numerical rank of the deltas, max(m, n) * eps(float32), count as none. The
        exact solution broke every whole fine-tune that it was tried on, and no adapter: give whole models a ridge, of
        which 0.01 and 0.1 kept most (docs/LAB_EARLIER.md).
    """
    m, n = deltas.shape[-2:]
    left = right = double(deltas.new_zeros(()))
    for delta, weight in zip(deltas, double(weights), strict=True):
        term = double(delta) * weight
        gram = term.mT @ term
        share = _shares(gram.diagonal(dim1=-2, dim2=-1).sum(-1))
        right = right + gram * share
        left = left + term @ (gram * share) + ridge * term
    return (left @ inverse(right, m, n, ridge) * scale).to(deltas)
