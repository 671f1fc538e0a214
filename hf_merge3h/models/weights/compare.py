"""Whether models can be merged: their tensors' names, shapes and kinds, all differences at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from ...errors import Problems
from ..types import TensorSpec, WeightSource

_NAMED = 5  # missing or extra tensors that are named before the rest is counted


class Weights(WeightSource, Protocol):
    """A WeightSource that tells apart what must be equal."""

    def constants(self) -> Mapping[str, Tensor]:
        """Tensors that are no parameters: integer ones, persistent buffers."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """Further names that tied tensors could have, and the names that they have."""

    def without(self, names: Iterable[str]) -> Weights:
        """The same, with these tensors left out from now on."""


def compare(base: Weights, expert: Weights, problems: Problems, vocabulary: int | None = None) -> None:
    """Note everything that keeps an expert from being merged into a base.

    Reads headers, and values only of constants and of tied tensors that the expert holds twice (and leaves these out
    of the expert, where they are equal).

    Args:
        base: its names, shapes and constants count.
        expert: what is held against it.
        problems: takes what was found.
        vocabulary: rows of the base's embedding, where they are known (only the wording depends on it).
    """
    drop_aliases(base, expert, problems)
    constants, others = base.constants(), expert.constants()
    specs = {**base.specs(), **{name: _spec(tensor) for name, tensor in constants.items()}}
    found = {**expert.specs(), **{name: _spec(tensor) for name, tensor in others.items()}}
    compare_specs(specs, found, expert.label, problems, vocabulary)
    for name, tensor in constants.items():
        if name not in found or found[name].shape != tuple(tensor.shape):
            continue
        other = others[name] if name in others else expert.load(name)
        # A buffer may be stored in another precision, and is the same buffer then.
        if other.is_floating_point() == tensor.is_floating_point() and not equal(tensor, other):
            problems.add(
                f"{expert.label}: {name!r} is no parameter ({_kind(tensor.dtype)} values, or a buffer) and differs "
                "from the base's; it cannot be merged, and must be equal"
            )


def drop_aliases(base: Weights, expert: Weights, problems: Problems) -> None:
    """Leave out what an expert holds once more than the base, which ties it; both must be equal, or it is noted."""
    specs = expert.specs()
    doubles = {alias: kept for alias, kept in base.aliases.items() if alias in specs and kept in specs}
    for alias, kept in doubles.items():
        if specs[alias].shape != specs[kept].shape or not equal(expert.load(alias), expert.load(kept)):
            problems.add(
                f"{expert.label}: {alias!r} and {kept!r} differ, and the base ties them; untie the base first (load it "
                "with tie_word_embeddings=False)"
            )
    expert.without(doubles)


def compare_specs(
    base: Mapping[str, TensorSpec],
    expert: Mapping[str, TensorSpec],
    label: str,
    problems: Problems,
    vocabulary: int | None = None,
) -> None:
    """Note missing and extra tensors, other shapes, and integers where numbers belong; headers only."""
    missing = [name for name in base if name not in expert]
    extra = [name for name in expert if name not in base]
    if missing:
        problems.add(f"{label}: {_count(missing)} of the base missing: {_some(missing)}")
    if extra:
        problems.add(f"{label}: {_count(extra)} that the base does not have: {_some(extra)}")
    for name in base:
        if name not in expert:
            continue
        ours, theirs = base[name], expert[name]
        if ours.shape != theirs.shape:
            problems.add(_shape_problem(name, ours.shape, theirs.shape, label, vocabulary))
        elif _kind(ours.dtype) != _kind(theirs.dtype):
            problems.add(f"{label}: {name!r} is {theirs.dtype}, expected {_kind(ours.dtype)} values as in the base")


def _shape_problem(
    name: str, ours: tuple[int, ...], theirs: tuple[int, ...], label: str, vocabulary: int | None
) -> str:
    if vocabulary is not None and ours[:1] == (vocabulary,) and ours[1:] == theirs[1:]:
        more = theirs[0] - ours[0]
        return (
            f"{label}: {name!r}: a vocabulary of {theirs[0]} tokens, {abs(more)} {'more' if more > 0 else 'fewer'} "
            f"than the base's {ours[0]}; bring both to one by resize_token_embeddings, with one tokenizer"
        )
    return f"{label}: {name!r} has shape {list(theirs)}, expected {list(ours)} as in the base"


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same, in the coarser of their dtypes."""
    if one.is_floating_point() and one.dtype != other.dtype:
        coarse = min(one.dtype, other.dtype, key=lambda dtype: -torch.finfo(dtype).eps)
        one, other = one.to(coarse), other.to(coarse)
    one, other = one.cpu(), other.cpu()
    same = (one == other) | ((one != one) & (other != other))  # NaN where the other is NaN
    return bool(same.all())


def _spec(tensor: Tensor) -> TensorSpec:
    return TensorSpec(tuple(tensor.shape), tensor.dtype)


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return "complex"
    return "floating-point" if dtype.is_floating_point else "boolean" if dtype == torch.bool else "integer"


def _count(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}"


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
