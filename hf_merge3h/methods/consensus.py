"""Consensus merging: keep what matters to at least two experts (TALL masks)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import bad
from ..linalg.signs import Election
from ..registry import Range, method
from .arithmetic import Scale, merge_linearly
from .common import check_sum
from .ties import Density, merge_agreeing, trim

MaskLambda = Annotated[float, Range(0)]
MinExperts = Annotated[int, Range(1, high_open=True)]


def _check_votes(parameters: Mapping[str, Any], weights: Sequence[float]) -> None:
    check_sum(parameters, weights)
    if parameters["min_experts"] > len(weights):
        expected = f"an integer in [1, {len(weights)}]: an entry cannot matter to more experts than there are"
        raise bad("min_experts", parameters["min_experts"], expected)


def shared_entries(
    vectors: Float[Tensor, "task batch *shape"],
    merged: Float[Tensor, "batch *shape"],
    mask_lambda: float,
    min_experts: int,
) -> Float[Tensor, "batch *shape"]:
    """The entries of `merged` that the TALL masks |D_t| >= lambda |D - D_t| of enough experts hold."""
    votes = torch.zeros_like(merged, dtype=torch.int64)
    for vector in vectors:
        votes += vector.abs() >= (merged - vector).abs() * mask_lambda
    return merged * (votes >= min_experts)


@method(
    "consensus_ta",
    title="Consensus task arithmetic",
    paper="arXiv:2405.07813",
    family="consensus",
    elementwise=True,
    experts=(2, None),
    check=_check_votes,
)
def consensus_ta(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    mask_lambda: MaskLambda = 0.4,
    min_experts: MinExperts = 2,
    scale: Scale = 1.0,
    normalize: bool = False,
) -> Float[Tensor, "batch *shape"]:
    """Add the task vectors, then keep the entries that matter to several experts.

    D = scale * M * S,  S = sum_t w_t D_t,  M = [sum_t m_t >= min_experts],  m_t = [|D_t| >= mask_lambda |S - D_t|]

    Args:
        vectors: task vectors.
        weights: one for each expert.
        mask_lambda: how much of the rest's change an expert's own must have for the entry to matter to it.
        min_experts: to how many experts an entry must matter.
        scale: factor of the result.
        normalize: divide S by the sum of the weights.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("consensus_ta")(torch.tensor([[1.0, 5.0], [2.0, 0.1]]))
        tensor([3., 0.])

    Reference:
        Wang et al., "Localizing task information for improved model merging and compression", ICML 2024,
        arXiv:2405.07813.
    """
    merged = merge_linearly(vectors, weights, scale=1.0, normalize=normalize)
    return shared_entries(vectors, merged, mask_lambda, min_experts) * scale


@method(
    "consensus_ties",
    title="Consensus TIES",
    paper="arXiv:2405.07813",
    family="consensus",
    experts=(2, None),
    check=_check_votes,
    exempt={"identity": "TIES trims small entries; it holds at density 1"},
)
def consensus_ties(
    vectors: Float[Tensor, "task batch *shape"],
    weights: Float[Tensor, "task"],
    *,
    density: Density = 0.2,
    election: Election = "sum",
    mask_lambda: MaskLambda = 0.4,
    min_experts: MinExperts = 2,
    scale: Scale = 1.0,
    normalize: bool = True,
) -> Float[Tensor, "batch *shape"]:
    """Merge by TIES, then keep the entries that matter to several experts.

    D = scale * M * TIES(D_1 .. D_T),  M as in `consensus_ta` with TIES's result for S

    Args:
        vectors: task vectors.
        weights: one for each expert.
        density: share of the entries of a tensor, by magnitude, that each expert keeps.
        election: elect the sign of the weighted sum, or the one that more experts have.
        mask_lambda: how much of the rest's change an expert's own must have for the entry to matter to it.
        min_experts: to how many experts an entry must matter.
        scale: factor of the result.
        normalize: divide by the sum of the agreeing weights (the mean); else the sum stands.

    Returns:
        The merged task vector.

    Example:
        >>> import torch
        >>> from hf_merge3h import get_method
        >>> get_method("consensus_ties")(torch.tensor([[1.0, 5.0], [2.0, 0.1]]), density=1)
        tensor([1.5000, 0.0000])

    Reference:
        Wang et al., "Localizing task information for improved model merging and compression", ICML 2024,
        arXiv:2405.07813.

    Note:
        The masks compare with the experts' task vectors before the trimming.
    """
    merged = merge_agreeing(trim(vectors, density, None), weights, scale=1.0, normalize=normalize, election=election)
    return shared_entries(vectors, merged, mask_lambda, min_experts) * scale
