"""One method, one stack of same-shaped tensors: the step that the engine and a direct call share.

`get_method("ties")(deltas, weights, density=0.3)` merges tensors at hand, without models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import bad
from .linalg.low_rank import LowRank
from .linalg.random import mask_keys

if TYPE_CHECKING:
    from .registry import Method, Parts

#: What the experts hold at one group of tensors: a stack [task, batch, *shape], or one LowRank [batch, m, n] a task.
Vectors = Tensor | tuple[LowRank, ...]


def average(vectors: Vectors, weights: Float[Tensor, "task"], scale: float) -> Float[Tensor, "batch *shape"] | LowRank:
    """scale * sum_t w_t D_t / T: what spectral methods do to tensors that are no matrices."""
    factors = [float(weight) * scale / len(vectors) for weight in weights]
    if not isinstance(vectors, Tensor):
        return LowRank.cat([vector * factor for vector, factor in zip(vectors, factors, strict=True)])
    total = vectors[0] * factors[0]
    for vector, factor in zip(vectors[1:], factors[1:], strict=True):
        total += vector * factor
    return total


def uses_low_rank(method: Method, parameters: Mapping[str, Any], spectral: bool) -> bool:
    """Whether factors can stay factors under these parameters (an average always keeps them)."""
    if method.matrix_only and not spectral:
        return True
    return method.low_rank is not None and (method.low_rank_when is None or method.low_rank_when(parameters))


def merge_stack(
    method: Method,
    vectors: Vectors,
    weights: Float[Tensor, "task"],
    parameters: Mapping[str, Any],
    supplied: Mapping[str, Any],
    *,
    spectral: bool,
) -> Float[Tensor, "batch *shape"] | LowRank:
    """Merge one group.

    Args:
        method: its record.
        vectors: task vectors (or weights, for a method in weight space), float32.
        weights: one for each expert.
        parameters: as `Method.bind` gives them.
        supplied: values for the arguments that the method `needs`.
        spectral: false where a `matrix_only` method must average instead (`Method.fallback`, embeddings).

    Returns:
        [batch, *shape], or a LowRank where the method keeps one.
    """
    if method.matrix_only and not spectral:
        return average(vectors, weights, parameters.get("scale", 1.0))
    keywords = {name: value for name, value in parameters.items() if name not in method.engine_parameters}
    keywords.update({name: supplied[name] for name in method.needs})
    if isinstance(vectors, Tensor):
        return method.function(vectors, weights, **keywords)
    if not uses_low_rank(method, parameters, spectral):
        return method.function(torch.stack([vector.dense() for vector in vectors]), weights, **keywords)
    assert method.low_rank is not None
    return method.low_rank(vectors, weights, **keywords)


@dataclass(frozen=True)
class _Elementwise:
    """Parts of a method that treats every entry by itself."""

    merge_part: Callable[[Tensor], Tensor]

    def stride(self) -> None:
        """Nothing has to be known beforehand."""

    def look(self, vectors: Tensor) -> None:
        """Not called."""

    def add(self, seen: None) -> None:
        """Not called."""

    def merge(self, start: int, vectors: Tensor) -> Tensor:
        """The method itself, on the part."""
        return self.merge_part(vectors)


def parts_of(
    method: Method,
    weights: Float[Tensor, "task"],
    parameters: Mapping[str, Any],
    supplied: Mapping[str, Any],
    entries: int,
    *,
    spectral: bool,
) -> Parts | None:
    """How to merge one dense tensor part by part, with the bits of `merge_stack`; None where it must be whole."""
    if method.elementwise or (method.matrix_only and not spectral):

        def merge(part: Tensor) -> Tensor:
            merged = merge_stack(method, part, weights, parameters, supplied, spectral=spectral)
            assert isinstance(merged, Tensor)
            return merged

        return _Elementwise(merge)
    return None if method.parts is None else method.parts(parameters, weights, supplied, entries)


def call_directly(method: Method, vectors: Any, weights: Any, options: Mapping[str, Any]) -> Any:
    """Merge one tensor of each expert; see `Method.__call__`."""
    shape, device = _common_shape(vectors)
    n_experts = len(vectors)
    method.check_experts(n_experts)
    options = dict(options)
    seed, base = options.pop("seed", 0), options.pop("base", None)
    parameters = method.bind(options, n_experts)
    values = method.bind_weights(weights, n_experts)
    method.check_request(parameters, values)
    if "base" in method.needs and base is None:
        raise bad("base", base, f"the base's tensor, which {method.name!r} looks at")
    stacked: Vectors
    if isinstance(vectors, Tensor):
        stacked = vectors.unsqueeze(1)
    else:
        stacked = tuple(LowRank(vector.left.unsqueeze(0), vector.right.unsqueeze(0)) for vector in vectors)
    spectral = not method.fallback(shape, n_experts)
    supplied = {
        "base": None if base is None else base.unsqueeze(0),
        "keys": mask_keys(seed, [f"expert_{number}" for number in range(1, n_experts + 1)], ["tensor"], device),
        "names": ("tensor",),
        "noise": torch.zeros(1, device=device),
        "statistics": gather(method, parameters, n_experts, [(("tensor",), stacked, spectral)]),
    }
    factors = torch.tensor(values, dtype=torch.float32, device=device)
    return merge_stack(method, stacked, factors, parameters, supplied, spectral=spectral)[0]


def gather(
    method: Method,
    parameters: Mapping[str, Any],
    n_experts: int,
    groups: Sequence[tuple[tuple[str, ...], Vectors, bool]],
) -> Any:
    """Run a method's `prepare` passes over groups (names, vectors, spectral) that are all in memory."""
    accumulator = method.prepare(parameters, n_experts) if method.prepare is not None else None
    if accumulator is None:
        return None
    for number in range(accumulator.passes):
        for names, vectors, spectral in groups:
            accumulator.observe(number, names, vectors, spectral)
    return accumulator.result()


def _common_shape(vectors: Any) -> tuple[Sequence[int], torch.device]:
    if isinstance(vectors, Tensor):
        if vectors.ndim < 1 or not len(vectors) or not vectors.is_floating_point():
            raise bad("vectors", tuple(vectors.shape), "a floating-point tensor [task, *shape]")
        return vectors.shape[1:], vectors.device
    if not isinstance(vectors, Sequence) or not vectors or not all(isinstance(each, LowRank) for each in vectors):
        raise bad("vectors", type(vectors).__name__, "a tensor [task, *shape] or a sequence of LowRank")
    if len({vector.shape for vector in vectors}) > 1:
        raise bad("vectors", [tuple(vector.shape) for vector in vectors], "task vectors of one shape")
    return vectors[0].shape, vectors[0].device
