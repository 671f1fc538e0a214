"""The plan of a merge: which tensors are treated together, and how. Made from headers alone, plain data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..apply import uses_low_rank
from ..models.types import Expert, TensorSpec
from .request import Request

#: Numbers of one stack, over all experts. A stack is what lies in memory at a time (twice or thrice that while it
#: is merged); on a CPU stacking dense tensors saves nothing, so there they go one by one.
_STACK_NUMBERS = {"cpu": 0, "cuda": 1 << 29, "mps": 1 << 27}
_FACTOR_NUMBERS = 1 << 24
_NO_STACK = re.compile(r"conv", re.IGNORECASE)
_EMBEDDING = re.compile(
    r"(^|\.)(lm_head|output_projection|embed_out|wte|wpe|shared|tok_embeddings|[a-z_]*embed(ding)?s?[a-z_]*)(\.|$)"
)


@dataclass(frozen=True)
class Group:
    """Tensors of one shape that are merged in one call.

    Attributes:
        names: of the tensors.
        shape: of each of them.
        stacked: the tensors are stacks of matrices [E, m, n] that a spectral method treats one by one.
        spectral: whether a `matrix_only` method treats them itself; else it averages.
        ranks: for each expert the greatest rank of its factors, 0 where it changes none of them, None where dense.
        low_rank: the factors stay factors.
        weights, parameters: those of this group (a recipe may give each layer its own).
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    stacked: bool
    spectral: bool
    ranks: tuple[int | None, ...]
    low_rank: bool
    weights: tuple[float, ...]
    parameters: Mapping[str, Any]

    @property
    def numbers(self) -> int:
        """Entries of all its tensors."""
        return len(self.names) * math.prod(self.shape)

    def entry_names(self) -> tuple[str, ...]:
        """One name for each element of the batch that the method sees."""
        if not self.stacked:
            return self.names
        return tuple(f"{name}[{index}]" for name in self.names for index in range(self.shape[0]))


@dataclass(frozen=True)
class Plan:
    """All groups of a merge, in the order in which they are run."""

    method: str
    groups: tuple[Group, ...]

    @property
    def numbers(self) -> int:
        """Entries of all tensors."""
        return sum(group.numbers for group in self.groups)


def make_plan(
    request: Request, base: Mapping[str, TensorSpec], experts: Sequence[Expert], *, weights_at_hand: bool
) -> Plan:
    """Group the tensors that at least one expert may change.

    Args:
        request: the checked request.
        base: specs of the base's tensors (of the adapters' targets, where there is no base).
        experts: in the request's order; their specs fit the base's.
        weights_at_hand: the base's weights may be read; else a method in weight space gets task vectors.
    """
    changed = [expert.specs() for expert in experts]
    vectors = request.method.space == "delta" or not weights_at_hand
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for name, spec in base.items():
        if not any(name in specs for specs in changed):
            continue
        ranks = tuple(specs[name].rank if name in specs else 0 for specs in changed)
        kinds.setdefault(kind_of(request, name, spec, ranks, vectors), []).append(name)
    groups = []
    for (shape, stacked, spectral, low_rank, ranks), names in kinds.items():
        for part in _parts(names, shape, ranks, low_rank, request.device.type):
            groups.append(Group(part, shape, stacked, spectral, ranks, low_rank, request.weights, request.parameters))
    return Plan(request.method.name, tuple(groups))


def kind_of(
    request: Request, name: str, spec: TensorSpec, ranks: tuple[int | None, ...], vectors: bool
) -> tuple[Any, ...]:
    """What tensors must have in common to be merged in one call."""
    method, shape = request.method, spec.shape
    stacked = method.matrix_only and is_stack_of_matrices(name, shape)
    matrix = shape[1:] if stacked else shape
    spectral = (
        method.matrix_only
        and not method.fallback(matrix, len(ranks))
        and (request.parameters.get("spectral_embeddings", False) or not is_embedding(name))
    )
    factored = vectors and all(rank is not None for rank in ranks)
    low_rank = factored and uses_low_rank(method, request.parameters, spectral)
    return shape, stacked, spectral, low_rank, ranks


def _parts(
    names: Sequence[str], shape: tuple[int, ...], ranks: tuple[int | None, ...], low_rank: bool, device: str
) -> list[tuple[str, ...]]:
    """Cut a list of same-shaped tensors into stacks that fit into memory."""
    if low_rank:
        one = sum(rank or 0 for rank in ranks) * (math.prod(shape[:-1]) + math.prod(shape) // shape[-2])
        most = _FACTOR_NUMBERS
    else:
        one, most = math.prod(shape) * len(ranks), _STACK_NUMBERS.get(device, 0)
    size = max(1, most // max(one, 1))
    return [tuple(names[start : start + size]) for start in range(0, len(names), size)]


def is_stack_of_matrices(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor is a stack of matrices, as the fused experts of a mixture-of-experts layer are.

    Told from name and shape alone: three sides, and not the kernel of a convolution (whose last side is a handful).

    >>> is_stack_of_matrices("mlp.experts.gate_up_proj", (8, 64, 32)), is_stack_of_matrices("conv1.weight", (64, 64, 3))
    (True, False)
    """
    if len(shape) != 3:
        return False
    return "expert" in name or (min(shape[1:]) >= 16 and not _NO_STACK.search(name))


def is_embedding(name: str) -> bool:
    """Whether a tensor is an embedding or an output head, which spectral methods average unless told otherwise.

    >>> [is_embedding(name) for name in ("lm_head.weight", "model.embed_tokens.weight", "h.0.attn.c_attn.weight")]
    [True, True, False]
    """
    return _EMBEDDING.search(name) is not None
