"""How far the tensors of two checkpoints are apart, one pair in memory at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import SourceError

_PIECE = 1 << 24  # entries compared at a time
#: Rounding may flip a few entries by one unit in the last place between machines; what an edit does is far more.
_LEAST, _FLIPS = 1e-5, 0.03


@dataclass(frozen=True)
class TensorDifference:
    """How far one tensor is from what merging again gives.

    Attributes:
        name: of the tensor.
        relative: Frobenius norm of the difference, relative to the tensor's.
        largest: of the differences of single entries.
        within: whether that is as little as rounding on another machine does.
        reason: where it could not be compared: missing, another shape or dtype.
    """

    name: str
    relative: float
    largest: float
    within: bool
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"{self.name}: {self.reason}"
        return f"{self.name}: differs by {self.relative:.3g} of its norm (at most {self.largest:.3g})"


def differences(published: Path, again: Path, tolerance: float | None = None) -> tuple[list[TensorDifference], int]:
    """Compare two folders tensor by tensor.

    Args:
        published: a folder with safetensors files.
        again: what they should hold.
        tolerance: largest relative difference that counts as rounding; None for one by the tensor's dtype.

    Returns:
        The tensors that differ in any bit, and how many were compared.

    Raises:
        SourceError: a file cannot be read.
    """
    found: list[TensorDifference] = []
    with _Tensors(published) as first, _Tensors(again) as second:
        for name in sorted({*first.names, *second.names}):
            if name not in first.names or name not in second.names:
                where = "here" if name in first.names else "in the second merge"
                found.append(TensorDifference(name, math.inf, math.inf, False, f"is only {where}"))
                continue
            each = _difference(name, first.load(name), second.load(name), tolerance)
            found += [] if each is None else [each]
        return found, len(second.names)


def _difference(name: str, one: Tensor, two: Tensor, tolerance: float | None) -> TensorDifference | None:
    """None where they are equal bit by bit."""
    if one.shape != two.shape or one.dtype != two.dtype:
        what = f"is {_kind(one)}, and merging again gives {_kind(two)}"
        return TensorDifference(name, math.inf, math.inf, False, what)
    one, two = one.reshape(-1), two.reshape(-1)
    if torch.equal(one.view(torch.uint8), two.view(torch.uint8)):
        return None
    apart = size = largest = 0.0
    for start in range(0, len(one), _PIECE):
        a, b = one[start : start + _PIECE].double(), two[start : start + _PIECE].double()
        apart, size = apart + float((a - b).square().sum()), size + float(b.square().sum())
        largest = max(largest, float((a - b).abs().max()))
    relative = math.sqrt(apart / size) if size else (math.inf if apart else 0.0)
    limit = tolerance
    if limit is None:
        limit = max(_LEAST, _FLIPS * torch.finfo(one.dtype).eps) if one.dtype.is_floating_point else 0.0
    return TensorDifference(name, relative, largest, relative <= limit)  # NaN is never within


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


class _Tensors:
    """All tensors of a folder's safetensors files, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self._files: list[Any] = []
        self.names: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                file = safe_open(path, framework="pt").__enter__()
            except (SafetensorError, OSError) as problem:
                raise SourceError(f"{path}: cannot be read: {problem}") from None
            self._files.append(file)
            names = dict.fromkeys(file.keys(), file)
            twice = sorted(names.keys() & self.names.keys())
            if twice:
                raise SourceError(f"{path.name}: holds {twice[0]}, which another file of the folder holds too")
            self.names.update(names)

    def load(self, name: str) -> Tensor:
        """One tensor."""
        return self.names[name].get_tensor(name)

    def __enter__(self) -> _Tensors:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.__exit__(None, None, None)
