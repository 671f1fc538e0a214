"""One method, one stack of same-shaped tensors: the step that the engine and a direct call share.

`get_method("ties")(deltas, weights, density=0.3)` merges tensors at hand, without models.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import bad
from .linalg.low_rank import LowRank
from .linalg.parallel import concurrently
from .linalg.random import mask_keys
from .linalg.svd import LARGE
from .passes import Elementwise

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
        if method.matrix_only and vectors.shape[1] > 1 and min(vectors.shape[-2:]) >= LARGE:
            return _one_by_one(method, vectors, weights, keywords)
        return method.function(vectors, weights, **keywords)
    if not uses_low_rank(method, parameters, spectral):
        return method.function(torch.stack([vector.dense() for vector in vectors]), weights, **keywords)
    assert method.low_rank is not None
    return method.low_rank(vectors, weights, **keywords)


def _one_by_one(
    method: Method, vectors: Float[Tensor, "task batch m n"], weights: Float[Tensor, "task"], keywords: dict[str, Any]
) -> Float[Tensor, "batch m n"] | LowRank:
    """A spectral method over large dense matrices, each for itself.

    Which precision their decompositions take depends on the matrix, and would else depend on the whole batch.
    """
    batch = vectors.shape[1]
    slices: dict[str, Callable[[int], Any]] = {
        "base": lambda i: keywords["base"][i : i + 1],
        "keys": lambda i: keywords["keys"][:, i : i + 1],
        "names": lambda i: keywords["names"][i : i + 1],
        "noise": lambda i: keywords["noise"][i : i + 1],
    }
    parts = {name: part for name, part in slices.items() if keywords.get(name) is not None}

    def job(i: int) -> Tensor | LowRank:
        own = {name: part(i) for name, part in parts.items()}
        return method.function(vectors[:, i : i + 1], weights, **{**keywords, **own})

    jobs = [partial(job, i) for i in range(batch)]
    done = concurrently(jobs) if vectors.device.type == "cpu" else [job() for job in jobs]
    factors = [each[0] for each in done if isinstance(each, LowRank)]
    return LowRank.stack(factors) if factors else torch.cat([each for each in done if isinstance(each, Tensor)])


def parts_of(
    method: Method,
    weights: Float[Tensor, "task"],
    parameters: Mapping[str, Any],
    supplied: Mapping[str, Any],
    shape: Sequence[int],
    *,
    spectral: bool,
) -> Parts | None:
    """How to merge one dense tensor part by part, with the bits of `merge_stack`; None where it must be whole."""
    averaged = method.matrix_only and not spectral
    if method.parts is not None and not averaged and 0 not in shape:
        return method.parts(parameters, weights, supplied, tuple(shape))
    if method.elementwise or averaged or 0 in shape:

        def merge(start: int, part: Tensor) -> Tensor:
            merged = merge_stack(method, part, weights, parameters, supplied, spectral=spectral)
            assert isinstance(merged, Tensor)
            return merged

        return Elementwise(merge)
    return None


def call_directly(method: Method, vectors: Any, weights: Any, options: Mapping[str, Any]) -> Any:
    """Merge one tensor of each expert; see `Method.__call__`."""
    shape, device, dtype = _common_shape(vectors)
    n_experts = len(vectors)
    method.check_experts(n_experts)
    options = dict(options)
    seed, base = _whole_number("seed", options.pop("seed", 0)), options.pop("base", None)
    parameters = method.bind(options, n_experts)
    values = method.bind_weights(weights, n_experts)
    method.check_request(parameters, values)
    if "base" in method.needs and base is None:
        raise bad("base", base, f"the base's tensor, which {method.name!r} looks at")
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    if base is not None:
        base = _checked_base(base, shape).to(device=device, dtype=compute)
    stacked: Vectors
    if isinstance(vectors, Tensor):
        stacked = vectors.to(compute).unsqueeze(1)
    else:
        stacked = tuple(
            LowRank(each.left.unsqueeze(0), each.right.unsqueeze(0)).to(device, compute) for each in vectors
        )
    for number, vector in enumerate(stacked, 1):
        for part in (vector,) if isinstance(vector, Tensor) else (vector.left, vector.right):
            _refuse_non_finite(part, f"vectors of expert {number}")
    spectral = not method.fallback(shape, n_experts)
    supplied = {
        "base": None if base is None else base.unsqueeze(0),
        "keys": mask_keys(seed, [f"expert_{number}" for number in range(1, n_experts + 1)], ["tensor"], device),
        "names": ("tensor",),
        "noise": torch.zeros(1, device=device),
        "statistics": gather(method, parameters, n_experts, [(("tensor",), stacked, spectral)]),
    }
    factors = torch.tensor(values, dtype=compute, device=device)
    return merge_stack(method, stacked, factors, parameters, supplied, spectral=spectral)[0].to(dtype=dtype)


def _whole_number(argument: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise bad(argument, value, "an integer") from None


def _checked_base(base: Any, shape: Sequence[int]) -> Tensor:
    if not isinstance(base, Tensor) or not base.is_floating_point():
        raise bad("base", base, f"a floating-point tensor of the experts' shape {tuple(shape)}")
    if base.shape != torch.Size(shape):
        raise bad("base", tuple(base.shape), f"a tensor of the experts' shape {tuple(shape)}")
    _refuse_non_finite(base, "base")
    return base


def _refuse_non_finite(values: Tensor, argument: str) -> None:
    broken = values[~torch.isfinite(values)]
    if broken.numel():
        raise bad(argument, broken[0].item(), "finite entries", f"{broken.numel()} are not")


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


def _common_shape(vectors: Any) -> tuple[Sequence[int], torch.device, torch.dtype]:
    if isinstance(vectors, Tensor):
        if vectors.ndim < 1 or not len(vectors) or not vectors.is_floating_point():
            raise bad("vectors", tuple(vectors.shape), "a floating-point tensor [task, *shape]")
        return vectors.shape[1:], vectors.device, vectors.dtype
    if not isinstance(vectors, Sequence) or not vectors or not all(isinstance(each, LowRank) for each in vectors):
        raise bad("vectors", type(vectors).__name__, "a tensor [task, *shape] or a sequence of LowRank")
    if len({vector.shape for vector in vectors}) > 1:
        raise bad("vectors", [tuple(vector.shape) for vector in vectors], "task vectors of one shape")
    dtypes = [part.dtype for vector in vectors for part in (vector.left, vector.right)]
    if not all(dtype.is_floating_point for dtype in dtypes) or vectors[0].ndim != 2:
        raise bad("vectors", tuple(vectors[0].shape), "floating-point factors of one matrix for each expert")
    return vectors[0].shape, vectors[0].device, reduce(torch.promote_types, dtypes)
