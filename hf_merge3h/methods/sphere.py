"""Means on a sphere: SLERP, NuSLERP, MultiSLERP and the Karcher mean (see `linalg.sphere` for the derivation)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

from ..errors import bad
from ..linalg.blocks import gram as whole_gram
from ..linalg.low_rank import LowRank
from ..linalg.precision import double
from ..linalg.sphere import (
    gram,
    karcher_coefficients,
    low_rank_gram,
    projected_mean_coefficients,
    slerp_coefficients,
)
from ..linalg.weighted import combine, in_order, shares, weighted_cat
from ..passes import Searched
from ..registry import Parts, Range, method
from .common import check_sum, inner_products, weighted_parts

_STRAIGHT = 0.9995  # SLERP is linear where the cosine is greater, as its implementations are
Epsilon = Annotated[float, Range(0, 1)]
Rounds = Annotated[int, Range(1, high_open=True)]


def _whole(vectors: Float[Tensor, "task batch *shape"]) -> tuple[int, ...]:
    """All dimensions of a tensor in its batch: one angle for all of it."""
    return tuple(range(1, vectors.ndim - 1))


def _slerp_coefficients(products: Tensor, t: float) -> Tensor:
    return slerp_coefficients(products, t, parallel=lambda cosine: cosine.abs() > _STRAIGHT)


def _slerp_parts(
    parameters: Mapping[str, Any], weights: Tensor, supplied: Mapping[str, Any], shape: tuple[int, ...]
) -> Parts:
    def after(products: Tensor) -> Parts:
        return weighted_parts(_slerp_coefficients(products, parameters["t"]).float())

    return Searched(inner_products(), after)


@method(
    "slerp",
    title="SLERP",
    paper="doi:10.1145/325165.325242",
    family="sphere",
    space="weight",
    parts=_slerp_parts,
    experts=(2, 2),
    weighted=False,
    exempt={"permutation": "t is the share of the second expert; it holds at t = 1/2"},
)
def slerp(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    t: Annotated[float, Range(0, 1)] = 0.5,
) -> Float[Tensor, "batch *shape"]:
    """Walk from the first expert's weights to the second's along a great circle.

    W = sin((1 - t) a) / sin(a) W_1 + sin(t a) / sin(a) W_2,  a = angle(W_1, W_2)

    Args:
        vectors: the two experts' weights.
        weights: not used: the formula names none.
        t: how far to walk: 0 is the first expert, 1 the second.

    Returns:
        The merged weights.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("slerp")(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([0.7071, 0.7071])

    Reference:
        Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985, doi:10.1145/325165.325242.

    Note:
        Where |cos a| > 0.9995 the walk is along the straight line.
    """
    coefficients = _slerp_coefficients(whole_gram(vectors), t)
    return combine(vectors, coefficients.reshape(*coefficients.shape, *[1] * (vectors.ndim - 2)))


def _check_angle(parameters: Mapping[str, Any], weights: Sequence[float]) -> None:
    check_sum(parameters, weights)
    if parameters["nuslerp_row_wise"] and parameters["nuslerp_flatten"]:
        raise bad("nuslerp_row_wise", True, "False where tensors are flattened", instead=("nuslerp_flatten", False))


def _nuslerp_coefficients(products: Tensor, weights: Float[Tensor, "task"]) -> Tensor:
    t = double(weights[1]) / in_order(double(weights))
    return slerp_coefficients(products, t, parallel=lambda cosine: cosine.acos().sin() < 1e-8)


def _nuslerp_low_rank(vectors: tuple[LowRank, ...], weights: Float[Tensor, "task"], **_: bool) -> LowRank:
    return weighted_cat(vectors, _nuslerp_coefficients(low_rank_gram(vectors), weights))


@method(
    "nuslerp",
    title="NuSLERP",
    paper="https://github.com/arcee-ai/mergekit",
    family="sphere",
    weight_form=True,
    low_rank=_nuslerp_low_rank,
    low_rank_when=lambda parameters: parameters["nuslerp_flatten"],
    experts=(2, 2),
    check=_check_angle,
)
def nuslerp(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    nuslerp_flatten: bool = True,
    nuslerp_row_wise: bool = False,
) -> Float[Tensor, "batch *shape"]:
    """Walk from the first task vector to the second along a great circle, as far as the weights say.

    D = sin((1 - t) a) / sin(a) D_1 + sin(t a) / sin(a) D_2,  t = w_2 / (w_1 + w_2),  a = angle(D_1, D_2)

    Args:
        vectors: the two task vectors (or weights, where there is no base).
        weights: one for each expert.
        nuslerp_flatten: one angle for the tensor; else one for each vector along its last dimension.
        nuslerp_row_wise: one angle for each vector along the first dimension instead.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("nuslerp")(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), [1, 1])
        tensor([1.4142, 1.4142])

    Reference:
        Goddard et al., "Arcee's MergeKit", EMNLP 2024, arXiv:2403.13257 (the method is in the tool, not the paper).

    Note:
        Parallel task vectors are interpolated linearly. The angle is taken in float64.
    """
    one = (1,) if nuslerp_row_wise else (vectors.ndim - 2,)
    dims = _whole(vectors) if nuslerp_flatten or vectors.ndim < 3 else one
    return combine(vectors, _nuslerp_coefficients(gram(vectors, dims), weights))


def _multislerp_low_rank(
    vectors: tuple[LowRank, ...], weights: Float[Tensor, "task"], *, normalize_weights: bool, eps: float
) -> LowRank:
    factors = shares(double(weights)) if normalize_weights else weights
    return weighted_cat(vectors, projected_mean_coefficients(low_rank_gram(vectors), factors, eps))


@method(
    "multislerp",
    title="MultiSLERP",
    paper="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    family="sphere",
    weight_form=True,
    low_rank=_multislerp_low_rank,
    check=check_sum,
)
def multislerp(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    normalize_weights: bool = True,
    eps: Epsilon = 1e-8,
) -> Float[Tensor, "batch *shape"]:
    """Average the directions of several task vectors on the sphere, and their lengths.

    D = (sum_t w_t |D_t|) m / |m|,  m = sum_t w_t D_t / |D_t|

    Args:
        vectors: task vectors (or weights, where there is no base).
        weights: one for each expert.
        normalize_weights: divide the weights by their sum.
        eps: added to the lengths; where the mean direction is shorter, the task vectors are averaged linearly.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("multislerp")(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
        tensor([1.4142, 1.4142])

    Reference:
        Goddard, "MultiSLERP", https://goddard.blog/posts/multislerp-wow-what-a-cool-idea.

    Note:
        The original projects the directions to the tangent space at m, averages them there and maps the average back.
        That average is zero: the projections are u_t - (u_t . m) m, and sum_t w_t u_t is parallel to m. Only the
        formula above remains. `karcher` is the mean that weighs the tangents by their angles.
    """
    factors = shares(double(weights)) if normalize_weights else weights
    return combine(vectors, projected_mean_coefficients(gram(vectors, _whole(vectors)), factors, eps))


def _check_positive(parameters: Mapping[str, Any], weights: Sequence[float]) -> None:
    if min(weights) < 0:
        raise bad("weights", list(weights), "numbers of at least 0: a mean on a sphere has no negative weights")


def _karcher_low_rank(
    vectors: tuple[LowRank, ...], weights: Float[Tensor, "task"], *, max_iter: int, tol: float
) -> LowRank:
    return weighted_cat(vectors, karcher_coefficients(low_rank_gram(vectors), weights, max_iter=max_iter, tol=tol))


@method(
    "karcher",
    title="Karcher mean",
    paper="doi:10.1002/cpa.3160300502",
    family="sphere",
    space="weight",
    delta_form=True,
    low_rank=_karcher_low_rank,
    check=_check_positive,
)
def karcher(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    max_iter: Rounds = 10,
    tol: Epsilon = 1e-5,
) -> Float[Tensor, "batch *shape"]:
    """Take the mean of the experts' directions on the sphere, and of their lengths.

    W = (sum_t w_t |W_t|) u,  u = argmin over the sphere of sum_t w_t angle(u, W_t)^2,  sum_t w_t = 1

    Args:
        vectors: the experts' weights (or task vectors: then it is the mean around the base).
        weights: one for each expert.
        max_iter: most steps along the sphere.
        tol: stop where a step is shorter, in radians.

    Returns:
        The merged weights.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("karcher")(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
        tensor([1.4142, 1.4142])

    Reference:
        Karcher, "Riemannian center of mass and mollifier smoothing", Comm. Pure Appl. Math. 30, 1977.

    Note:
        A zero tensor has no direction: it takes no part, and its weight goes to the others. Where the directions
        cancel, the average is linear. mergekit weighs all experts equally.
    """
    products = gram(vectors, _whole(vectors))
    return combine(vectors, karcher_coefficients(products, weights, max_iter=max_iter, tol=tol))
