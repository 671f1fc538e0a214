"""What a merge is made of: its change measured block by block, and explained by the experts it may come from.

Also for merges of others: only the weights are looked at, one tensor at a time.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import RequestError, bad, label_of, show
from ..linalg.random import mask_key, uniform
from ..manifest import FILE, load_manifest
from ..models.hub import resolve
from ..models.sources import SourceModel, open_source
from ..models.types import HubOptions
from .diagnostics import inner_products
from .inspection import SKETCH, Block, Inspection
from .measures import block_of, natural

_PIECE = 1 << 22  # entries whose inner products are taken at a time
_EXTRA, _ROUNDS = 8, 2  # spare directions, and power iterations: Halko, Martinsson and Tropp, arXiv:0909.4061
_MOST_SUBSETS = 12  # experts up to which all sets of them are tried


def inspect(
    place: str | os.PathLike[str],
    base: str | None = None,
    experts: Sequence[str] = (),
    *,
    token: str | bool | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
) -> Inspection:
    """Look into a merge.

    Args:
        place: a model or adapter: folder or Hub id.
        base: what it is a change of; the manifest's base if left out.
        experts: models or adapters that may be in it; the manifest's if base is left out.
        token, cache_dir, local_files_only: as in `from_pretrained`.

    Raises:
        RequestError: nothing to compare with, or models that do not fit.
        SourceError: something that cannot be read.
    """
    hub = HubOptions(token, None, None, cache_dir, local_files_only)
    place = os.fspath(place)
    roles: Sequence[str] = _called(experts)
    if base is None:
        base, experts, roles = _recorded(place, hub)
    origin = open_source(base, (), label_of(base), hub)
    merged = _open(place, base, hub)
    opened = [_open(each, base, hub) for each in experts]
    return _look(place, base, tuple(experts), tuple(roles), origin, merged, opened)


def _called(experts: Sequence[str]) -> list[str]:
    """What a table calls experts: the last part of each, where these differ and are short."""
    names = [os.path.basename(each.rpartition("+")[2].rstrip("/")) for each in experts]
    if len(set(names)) == len(names) and all(0 < len(name) <= 16 for name in names):
        return names
    return [f"expert {number}" for number in range(1, len(experts) + 1)]


def _recorded(place: str, hub: HubOptions) -> tuple[str, list[str], list[str]]:
    """Base, experts and roles, as a merge's own manifest tells them."""
    from ..publishing.remote import local_folder

    folder = local_folder(place)
    if not (folder / FILE).is_file():
        raise bad("against", None, "BASE EXPERT...: there is no merge3h.json that would tell them")
    base, experts, roles = None, [], []
    for entry in load_manifest(folder).content["models"]:
        source = _pinned(entry)
        if entry["base"]:
            base = source
        elif entry.get("role"):
            experts.append("+".join([source, *map(_pinned, entry["adapters"])]))
            roles.append(str(entry["role"]))
    if base is None:
        raise bad("against", None, "BASE EXPERT...: this merge has no base that its manifest names")
    return base, experts, roles


def _pinned(entry: Any) -> str:
    return f"{entry['source']}@{entry['commit']}" if entry.get("commit") else str(entry["source"])


def _open(source: str, base: str, hub: HubOptions) -> SourceModel:
    """A model, or an adapter on the base; `model+adapter` as in recipes."""
    whole, *adapters = source.split("+") if "+" in source and not os.path.exists(source) else [source]
    found = resolve(whole, token=hub.token, cache_dir=hub.cache_dir, local_files_only=hub.local_files_only)
    if found.kind == "adapter":
        return open_source(base, (whole, *adapters), label_of(base), hub)
    return open_source(whole, adapters, label_of(source), hub)


@dataclass(frozen=True)
class _Measured:
    """One tensor: sums that add up over a block."""

    name: str
    numbers: int
    same: int
    size: float
    gram: Tensor
    rank: int | None
    energy: float | None


def _look(
    place: str,
    base: str,
    names: tuple[str, ...],
    roles: tuple[str, ...],
    origin: SourceModel,
    merged: SourceModel,
    experts: Sequence[SourceModel],
) -> Inspection:
    blocks: dict[str, list[_Measured]] = {}
    skipped = [f"{name}: only in the merge" for name in merged.specs if name not in origin.specs]
    with torch.no_grad():
        for name, spec in origin.specs.items():
            others = [model for model in (merged, *experts) if name not in model.specs]
            unlike = [
                model for model in (merged, *experts) if model not in others and model.specs[name].shape != spec.shape
            ]
            if others or unlike:
                skipped.append(f"{name}: {(others or unlike)[0].label} has {'none' if others else 'another shape'}")
                continue
            blocks.setdefault(block_of(name), []).append(_measure(name, origin, merged, experts))
    if not blocks:
        raise RequestError(
            f"{show(place)}: no tensor of it can be compared with {show(base)}; are they one architecture?"
        )
    ordered = [_block(name, blocks[name]) for name in sorted(blocks, key=natural)]
    total = _block("whole model", list(itertools.chain.from_iterable(blocks.values())))
    return Inspection(place, base, names, roles, total, tuple(ordered), tuple(skipped))


def _measure(name: str, origin: SourceModel, merged: SourceModel, experts: Sequence[SourceModel]) -> _Measured:
    before, after = origin.load(name), merged.load(name)
    rows = [before.reshape(-1), after.reshape(-1), *(expert.load(name).reshape(-1) for expert in experts)]
    gram, same, size = torch.zeros(len(rows) - 1, len(rows) - 1, dtype=torch.float64), 0, 0.0
    for start in range(0, len(rows[0]), _PIECE):
        first, *others = [row[start : start + _PIECE].float() for row in rows]
        deltas = [each.sub(first)[None] for each in others]
        gram += inner_products(deltas)[0]
        # Equal as stored: an adapter's tensor is computed in float32, and rounds to the base's where it adds nothing.
        same += int((others[0].to(before.dtype) == rows[0][start : start + _PIECE]).sum())
        size += float(first.square().sum(dtype=torch.float64))
    rank, energy = _spectrum(name, after, before)
    return _Measured(name, before.numel(), same, size, gram, rank, energy)


def _spectrum(name: str, after: Tensor, before: Tensor) -> tuple[int | None, float | None]:
    """Numerical rank of a matrix's change, and the energy of its leading directions, from a random sketch."""
    if before.ndim != 2 or min(before.shape) < 2:
        return None, None
    delta = after.float() - before.float()
    whole = float(delta.square().sum(dtype=torch.float64))
    if not whole:
        return 0, None
    m, n = delta.shape
    width = min(SKETCH + _EXTRA, m, n)
    test = uniform(torch.tensor(mask_key(0, "inspect", name)), n * width).reshape(n, width) - 0.5
    found = torch.linalg.qr(delta @ test).Q
    for _ in range(_ROUNDS):
        found = torch.linalg.qr(delta @ torch.linalg.qr(delta.mT @ found).Q).Q
    values = torch.linalg.svdvals((found.mT @ delta).double())
    floor = float(values[0]) * max(m, n) * torch.finfo(torch.float32).eps
    rank = int((values > floor).sum())
    energy = float(values[:SKETCH].square().sum()) / whole
    return (rank if rank < width or width == min(m, n) else None), min(1.0, energy)


def _block(name: str, tensors: Sequence[_Measured]) -> Block:
    gram = torch.stack([each.gram for each in tensors]).sum(0)
    squares = gram.diagonal().clamp_min(0)
    size, numbers = math.fsum(each.size for each in tensors), sum(each.numbers for each in tensors)
    norm = math.sqrt(float(squares[0]))
    cosines = [_ratio(float(gram[0, i]), norm * math.sqrt(float(squares[i]))) for i in range(1, len(gram))]
    parts = nonnegative(gram[1:, 1:], gram[0, 1:])
    left = float(squares[0] - 2 * parts @ gram[0, 1:] + parts @ gram[1:, 1:] @ parts)
    # A float32 Gram matrix knows no residual under the root of its own rounding.
    residual = _ratio(math.sqrt(max(0.0, left)), norm)
    matrices = [each for each in tensors if each.energy is not None]
    ranks = [each.rank for each in matrices]
    weights = [float(each.gram[0, 0]) for each in matrices]
    energy = math.fsum(w * (each.energy or 0.0) for w, each in zip(weights, matrices, strict=True))
    return Block(
        name=name,
        tensors=len(tensors),
        numbers=numbers,
        norm=norm,
        relative=_ratio(norm, math.sqrt(size)),
        unchanged=sum(each.same for each in tensors) / numbers if numbers else 1.0,
        cosines=tuple(cosines),
        rank=sum(r for r in ranks if r is not None) / len(ranks) if ranks and None not in ranks else None,
        energy=_ratio(energy, math.fsum(weights)) if matrices else None,
        parts=tuple(parts.tolist()),
        residual=residual,
    )


def _ratio(value: float, size: float) -> float:
    return value / size if size else math.nan


def nonnegative(gram: Tensor, inner: Tensor) -> Tensor:
    """The c >= 0 that brings sum_i c_i D_i nearest to D, from inner products alone.

    The minimum is the plain least-squares solution over the experts that it uses, so all sets of experts are tried
    where they are few; else coordinates are improved one after the other until nothing changes.

    Args:
        gram: <D_i, D_j>, [n, n].
        inner: <D_i, D>, [n].

    >>> nonnegative(torch.eye(2), torch.tensor([0.5, -1.0])).tolist()
    [0.5, 0.0]
    """
    n = len(inner)
    if n <= _MOST_SUBSETS:
        return min(_solutions(gram, inner), key=lambda each: float(each @ gram @ each - 2 * each @ inner))
    found = torch.zeros(n, dtype=inner.dtype)
    diagonal = gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny)
    for _ in range(1000):
        before = found.clone()
        for i in range(n):
            found[i] = (found[i] + (inner[i] - gram[i] @ found) / diagonal[i]).clamp_min(0)
        if torch.allclose(before, found, rtol=1e-9, atol=0):
            break
    return found


def _solutions(gram: Tensor, inner: Tensor) -> Iterator[Tensor]:
    """Least squares over each set of experts, those with a negative part left out."""
    yield torch.zeros_like(inner)
    for count in range(1, len(inner) + 1):
        for used in itertools.combinations(range(len(inner)), count):
            place = torch.tensor(used)
            part = torch.linalg.lstsq(gram[place][:, place], inner[place, None], driver="gelsd").solution[:, 0]
            if bool((part >= 0).all()):
                yield torch.zeros_like(inner).index_put((place,), part)
