"""The nearest orthonormal basis: polar factors of many tall matrices at once.

X = Q P with Q^T Q = I and P positive has Q = X (X^T X)^{-1/2}, the orthonormal matrix nearest to X (Higham, "Computing
the polar decomposition", 1986, https://doi.org/10.1137/0907079; the orthogonal Procrustes problem, Schoenemann 1966).
Where X lacks rank, Q is the partial isometry: directions that X does not have get none, instead of arbitrary ones.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .precision import EPS, double, safe_inverse
from .svd import LARGE, falling_eigh

#: Eigenvalues of a Gram matrix at or under this share of the largest are left to float64.
_SMALL = 1e-2


def inverse_root(gram: Float[Tensor, "*batch k k"], rows: int) -> Float[Tensor, "*batch k k"]:
    """(X^T X)^{-1/2} for X of `rows` rows, without the directions under X's numerical rank.

    Singular values of X at or under max(rows, k) * eps(float32) * S_max count as zero. Columns that are zero in X are
    exactly zero in the result.
    """
    squares, axes = falling_eigh(gram)
    floor = (max(rows, gram.shape[-1]) * EPS) ** 2
    keep = squares > squares[..., :1] * floor
    root = (axes * safe_inverse(squares.sqrt(), keep).unsqueeze(-2)) @ axes.mT
    return root * (gram.diagonal(dim1=-2, dim2=-1) > 0).unsqueeze(-2)


def polar(basis: Float[Tensor, "*batch m k"]) -> Float[Tensor, "*batch m k"]:
    """The polar factor (a partial isometry) of dense matrices, float64 (float32 of large ones in float32).

    Example:
        >>> import torch
        >>> polar(torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.5]]))
        tensor([[1., 0.],
                [0., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    if basis.dtype == torch.float32 and basis.shape[-1] >= LARGE:
        if basis.ndim > 2:  # one by one: how a factor is computed must not depend on the others
            each = [polar(matrix) for matrix in basis.flatten(0, -3)]
            if any(factor.dtype == torch.float64 for factor in each):
                each = [double(factor) for factor in each]
            return torch.stack(each).unflatten(0, basis.shape[:-2])
        found = _polar_deflated(basis)
        if found is not None:
            return found
    basis = double(basis)
    return basis @ inverse_root(basis.mT @ basis, basis.shape[-2])


def _polar_deflated(basis: Float[Tensor, "m k"]) -> Float[Tensor, "m k"] | None:
    """The polar factor from a float32 eigendecomposition, with its small eigenvalues made exact in float64.

    X (X^T X)^{-1/2} needs eigenvalues to a relative precision that float32 gives only the large ones: its Gram matrix
    of a square stack of bases is 2 % off. The few under a hundredth of the largest (10 % of the spectrum at most, in
    practice) span a small space E; one step of perturbation theory, e_j + sum_i e_i (e_i . G e_j) / (t_j - l_i), and a
    Rayleigh-Ritz step make it invariant to float64. There the factor is computed in float64, in the rest in float32:
    X = X (I - E E^T) + X E E^T. Thin products only; None where the small space is not small.
    """
    k = basis.shape[-1]
    squares, axes = falling_eigh(basis.mT @ basis)
    few = int((squares <= squares[..., :1] * _SMALL).sum(-1).max())
    if few > k // 4:
        return None
    large, sharp = axes[..., : k - few], squares[..., : k - few]
    if not few:
        return basis @ ((large * sharp.rsqrt().unsqueeze(-2)) @ large.mT)
    exact = double(basis)
    small = _orthonormal(double(axes[..., k - few :]))
    image = exact.mT @ (exact @ small)
    values, turn = torch.linalg.eigh(small.mT @ image)
    small, image = small @ turn, image @ turn
    residual = image - small * values.unsqueeze(-2)
    size = residual.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    mixed = large.mT @ (residual / size).to(large)  # scaled, as it is small; its relative precision needs no more
    mixed = mixed / (values.unsqueeze(-2).to(large) - sharp.unsqueeze(-1))
    small = _orthonormal(small + double(large @ mixed) * size)
    thin = exact @ small
    values, turn = torch.linalg.eigh(thin.mT @ thin)
    keep = values > double(squares[..., :1]) * (max(basis.shape[-2:]) * EPS) ** 2
    small, thin = small @ turn, thin @ turn
    rest = basis - thin.to(basis) @ small.mT.to(basis)
    isometry = (thin * safe_inverse(values.clamp_min(0).sqrt(), keep).unsqueeze(-2)).to(basis) @ small.mT.to(basis)
    result = isometry + rest @ ((large * sharp.rsqrt().unsqueeze(-2)) @ large.mT)
    return result * (basis != 0).any(-2, keepdim=True)


def _orthonormal(basis: Float[Tensor, "*batch k s"]) -> Float[Tensor, "*batch k s"]:
    """A basis that is orthonormal but for rounding, made so to float64."""
    return basis @ inverse_root(basis.mT @ basis, basis.shape[-2])


def polar_in_span(
    coefficients: Float[Tensor, "*batch p k"], gram: Float[Tensor, "*batch p p"], rows: int
) -> Float[Tensor, "*batch p k"]:
    """Coefficients of the polar factor of Y C from those of Y C and Y^T Y, for Y of `rows` rows: Y is not touched."""
    return coefficients @ inverse_root(coefficients.mT @ gram @ coefficients, rows)
