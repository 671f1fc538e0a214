"""What was asked for, checked as far as it can be before any model is opened."""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import Problems, RequestError, bad, nearest, show, wrong
from ..registry import Method, get_method
from .order import order_of

ROLES = ("helpfulness", "honesty", "harmlessness")
_ALIASES = {"helpful": "helpfulness", "honest": "honesty", "harmless": "harmlessness"}
_RESERVED = ("base", "merged")


@dataclass(frozen=True)
class Request:
    """A merge that makes sense in itself.

    Attributes:
        method: its record.
        parameters: all of them, defaults filled in.
        roles: one for each expert, in the order in which the method sees them.
        sources: what was given for each.
        weights: one for each.
        seed, device: as resolved.
    """

    method: Method
    parameters: Mapping[str, Any]
    roles: tuple[str, ...]
    sources: tuple[Any, ...]
    weights: tuple[float, ...]
    seed: int
    device: torch.device


def make_request(
    experts: Mapping[str, Any] | Sequence[Any],
    *,
    method: str,
    weights: Sequence[float] | Mapping[str, float] | None,
    parameters: Mapping[str, Any],
    seed: int,
    device: str | torch.device,
) -> Request:
    """Check a request without opening a model.

    Where the order of experts does not matter to the method, they are sorted (see `order_of`), so that a dict or a list
    in another order gives the same bits. Masks of random methods are keyed by role, which is the position in a list.

    Raises:
        RequestError: names the argument, its value, what was expected and what to do.
    """
    record = get_method(method)
    roles, sources = name_experts(experts)
    record.check_experts(len(roles))
    _refuse_misspelt(parameters, record)
    bound = record.bind(parameters, len(roles))
    values = record.bind_weights(weights_in_order(weights, roles, sources), len(roles))
    record.check_request(bound, values)
    seed = as_integer("seed", seed, "an integer")
    order = list(range(len(roles))) if record.ordered else order_of(roles, sources)
    per_expert = {name for name, value in bound.items() if isinstance(value, tuple)}
    return Request(
        method=record,
        parameters={
            name: tuple(value[index] for index in order) if name in per_expert else value
            for name, value in bound.items()
        },
        roles=tuple(roles[index] for index in order),
        sources=tuple(sources[index] for index in order),
        weights=tuple(values[index] for index in order),
        seed=seed,
        device=resolve_device(device),
    )


#: Arguments of the doors that a misspelt parameter may have meant.
_ARGUMENTS = (
    "weights", "base", "seed", "device", "dtype", "progress", "adapter_name", "rank", "overwrite", "token", "revision",
    "subfolder", "cache_dir", "local_files_only", "method",
)  # fmt: skip


def _refuse_misspelt(parameters: Mapping[str, Any], method: Method) -> None:
    known = {parameter.name for parameter in method.parameters}
    for name in parameters:
        meant = difflib.get_close_matches(name, _ARGUMENTS, n=1, cutoff=0.75)
        if name not in known and meant:
            raise wrong(name, parameters[name], f"no such argument; did you mean {meant[0]!r}?")


def as_integer(argument: str, value: Any, expected: str) -> int:
    """An integer of any kind (numpy's too) as Python's.

    Raises:
        RequestError: it is none.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise bad(argument, value, expected) from None


def name_experts(experts: Any) -> tuple[list[str], list[Any]]:
    """Roles and sources of what was given as experts.

    In a list, an expert that is named by a word (a loaded adapter) has that word as its role, the others `expert_1`,
    `expert_2`, ... by position.
    """
    if isinstance(experts, Mapping):
        roles = [_role(role) for role in experts]
        sources = list(experts.values())
    elif isinstance(experts, Sequence) and not isinstance(experts, (str, bytes)):
        sources = list(experts)
        roles = [_word(source) or f"expert_{number}" for number, source in enumerate(sources, start=1)]
    else:
        raise bad("experts", experts, "a dict of role -> source, or a list of sources")
    if not sources:
        raise bad("experts", experts, "at least one expert")
    _refuse_twice("role", roles)
    _refuse_twice("source", [_place(source) for source in sources if isinstance(source, (str, os.PathLike))])
    if len({id(source) for source in sources if not isinstance(source, str)}) < sum(
        not isinstance(source, str) for source in sources
    ):
        raise RequestError("experts: one live model is given twice; give each expert once, with its weight")
    return roles, sources


def _word(source: Any) -> str | None:
    """The role that the name of a loaded adapter gives; None for paths, Hub ids and live models."""
    if not isinstance(source, str) or not source.strip() or source in _RESERVED or len(source) > 100:
        return None
    return None if any(mark in source for mark in "/\\@.") or not source.isprintable() else _ALIASES.get(source, source)


def _role(role: Any) -> str:
    if not isinstance(role, str) or not role.strip() or len(role) > 100 or not role.isprintable():
        raise bad("experts", role, "roles that are words", f"for example {', '.join(ROLES)}")
    if role in _RESERVED:
        raise bad("experts", role, f"a role other than {' and '.join(_RESERVED)}, which are reserved")
    return _ALIASES.get(role, role)


def _place(source: str | os.PathLike[str]) -> str:
    """One spelling for one folder."""
    path = os.fspath(source)
    return os.path.realpath(path) if len(path) < 4096 and os.path.exists(path) else path


def _refuse_twice(what: str, values: Sequence[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise RequestError(f"experts: {what} {show(value)} is given twice; give each expert once, with its weight")


def weights_in_order(weights: Any, roles: Sequence[str], sources: Sequence[Any]) -> list[Any] | None:
    """Weights in the experts' order, from a list, or a dict by role (an alias or the expert's own name will do)."""
    if weights is None:
        return None
    if isinstance(weights, Mapping):
        return _by_role(weights, roles, sources)
    if isinstance(weights, (str, bytes, set, frozenset)) or not hasattr(weights, "__len__") or _is_scalar(weights):
        raise bad("weights", weights, f"{len(roles)} numbers, or a dict by role")
    return list(weights)


def _is_scalar(weights: Any) -> bool:
    return getattr(weights, "ndim", 1) != 1


def _by_role(weights: Mapping[Any, Any], roles: Sequence[str], sources: Sequence[Any]) -> list[Any]:
    names = {os.fspath(s): role for s, role in zip(sources, roles, strict=True) if isinstance(s, (str, os.PathLike))}
    by_role: dict[str, Any] = {}
    problems = Problems("weights do not fit the experts")
    for given, weight in weights.items():
        word = os.fspath(given) if isinstance(given, os.PathLike) else str(given)
        role = next((each for each in (word, _ALIASES.get(word), names.get(word)) if each in roles), None)
        if role is None:
            problems.add(f"weights has {show(given)}, which is no expert; {nearest(word, roles)}")
        elif role in by_role:
            problems.add(f"weights names {show(role)} twice")
        else:
            by_role[role] = weight
    for role in roles:
        if role not in by_role:
            problems.add(f"weights lacks {show(role)}")
    problems.raise_any()
    return [by_role[role] for role in roles]


def resolve_device(device: str | torch.device) -> torch.device:
    """The device to compute on; "auto" takes a GPU where there is one.

    Raises:
        RequestError: no such device here.
    """
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise bad("device", device, "'auto', 'cpu', 'cuda' or 'mps'") from error
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(resolved.type, False):
        usable = ", ".join(repr(name) for name, usable in there.items() if usable)
        raise bad("device", str(device), f"a device that this machine has ({usable})", "or leave it at 'auto'")
    if resolved.type == "cuda" and resolved.index is not None and resolved.index >= torch.cuda.device_count():
        raise bad("device", str(device), f"one of the {torch.cuda.device_count()} GPUs here")
    return resolved


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A floating-point dtype from its name (`"bfloat16"`) or itself.

    Raises:
        RequestError: it is none.
    """
    if dtype is None:
        return None
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        raise bad("dtype", dtype, "float32, bfloat16, float16 or float64", "or leave it out to keep each tensor's own")
    return found
