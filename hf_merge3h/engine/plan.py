"""The plan of a merge: which tensors are treated together, and how. Made from headers alone, plain data."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..apply import uses_low_rank
from ..errors import RequestError
from ..models.types import Expert, TensorSpec
from .request import Request

#: Numbers of one stack, over all experts. A stack is what lies in memory at a time (twice or thrice that while it
#: is merged); on a CPU stacking dense tensors saves nothing, so there they go one by one.
_STACK_NUMBERS = {"cpu": 0, "cuda": 1 << 29, "mps": 1 << 27}
#: Factors of a stack: on a CPU each core takes one, and what fits into its cache goes faster.
_FACTOR_NUMBERS = {"cpu": 1 << 20, "cuda": 1 << 24, "mps": 1 << 24}
#: Where factors are added to whole weights, numbers of the weights that one stack may bring into memory.
_WEIGHT_NUMBERS = {"cpu": 1 << 22, "cuda": 1 << 28, "mps": 1 << 26}
_NO_STACK = re.compile(r"conv", re.IGNORECASE)
#: The last part of a name (of the module that holds a `weight`, or of a bare parameter) says that it is a table of
#: tokens or positions, or an output head.
_EMBEDDING = re.compile(
    r"^(output\.weight|(.*\.)?(lm_head|output_projection|proj_out|predictions\.decoder|wte|wpe|shared"
    r"|relative_attention_bias|\w*embed(s|dings?)?(_(tokens|positions|in|out))?)(\.weight)?)$"
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
        spacing: relative spacing of the coarsest dtype that a whole model stores these tensors in; 0 where all experts
            give factors, which were never rounded into weights.
        weights, parameters: those of this group (a recipe may give each layer its own).
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    stacked: bool
    spectral: bool
    ranks: tuple[int | None, ...]
    low_rank: bool
    spacing: float
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
    """Group the tensors that at least one expert may change (all, where the method changes what they agree on).

    Args:
        request: the checked request.
        base: specs of the base's tensors (of the adapters' targets, where there is no base).
        experts: in the request's order; their specs fit the base's.
        weights_at_hand: the base's weights may be read; else a method in weight space gets task vectors.
    """
    changed = [expert.specs() for expert in experts]
    vectors = request.method.space == "delta" or not weights_at_hand
    kinds: dict[tuple[Any, ...], list[str]] = {}
    kept = request.method.keeps_agreement(request.parameters, request.weights)
    for name, spec in base.items():
        if kept and not any(name in specs for specs in changed):
            continue
        ranks = tuple(specs[name].rank if name in specs else 0 for specs in changed)
        whole = [specs[name].dtype for specs in changed if name in specs and specs[name].rank is None]
        spacing = spacing_of([*whole, spec.dtype]) if whole else 0.0
        kinds.setdefault((*kind_of(request, name, spec, ranks, vectors), spacing), []).append(name)
    groups = []
    for (shape, stacked, spectral, low_rank, ranks, spacing), names in kinds.items():
        for part in _parts(names, shape, ranks, low_rank, request.device.type, weights_at_hand):
            groups.append(
                Group(part, shape, stacked, spectral, ranks, low_rank, spacing, request.weights, request.parameters)
            )
    return Plan(request.method.name, tuple(groups))


def refuse_fused(request: Request, specs: Mapping[str, TensorSpec], find: Callable[[], Mapping[str, bool]]) -> None:
    """Methods work on tensors as they lie on disk; factors of several that memory fuses are not factors of each.

    Args:
        request: the request.
        specs: of what adapters change, by name in memory.
        find: gives the parameters that are several tensors on disk, and whether these are the matrices of a stack.

    Raises:
        RequestError: a method that treats a tensor as a whole, or as one matrix, and such a parameter.
    """
    method = request.method
    if method.elementwise or not any(len(spec.shape) == 3 for spec in specs.values()):
        return
    one_by_one = method.matrix_only and not method.random  # then a stack of matrices is treated matrix by matrix
    fused = [name for name, each in find().items() if not (each and one_by_one)]
    if fused:
        more = f" and {len(fused) - 1} more" if len(fused) > 1 else ""
        raise RequestError(
            f"method={method.name!r}: the adapters change {fused[0]!r}{more}, where transformers fuses tensors of "
            "the checkpoint, and this method treats each of these by itself; merge into whole weights, "
            "hf_merge3h.merge(base_model, adapters, method=...), or take a method that treats each entry by itself "
            "(linear, task_arithmetic)"
        )


def spacing_of(dtypes: Sequence[torch.dtype]) -> float:
    """Relative spacing of the coarsest of some floating-point dtypes."""
    return max(torch.finfo(dtype).eps for dtype in dtypes)


def kind_of(
    request: Request, name: str, spec: TensorSpec, ranks: tuple[int | None, ...], vectors: bool
) -> tuple[Any, ...]:
    """What tensors must have in common to be merged in one call."""
    method, shape = request.method, spec.shape or (1,)  # a single number is a vector of one
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
    names: Sequence[str],
    shape: tuple[int, ...],
    ranks: tuple[int | None, ...],
    low_rank: bool,
    device: str,
    weights_at_hand: bool,
) -> list[tuple[str, ...]]:
    """Cut a list of same-shaped tensors into stacks that fit into memory."""
    if low_rank:
        one = sum(rank or 0 for rank in ranks) * (math.prod(shape[:-1]) + math.prod(shape) // shape[-2])
        most = _FACTOR_NUMBERS.get(device, 0)
    else:
        one, most = math.prod(shape) * len(ranks), _STACK_NUMBERS.get(device, 0)
    size = max(1, most // max(one, 1))
    if weights_at_hand:
        size = min(size, max(1, _WEIGHT_NUMBERS.get(device, 0) // max(math.prod(shape), 1)))
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
