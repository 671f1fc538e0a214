"""What the engine needs of a model, whether it is live, a checkpoint or an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..linalg.low_rank import LowRank

#: Gives one tensor of the base, float32, when it is needed (adapters other than DoRA never ask).
ReadBase = Callable[[], Tensor]


@dataclass(frozen=True)
class TensorSpec:
    """What a header tells of a tensor.

    Attributes:
        shape: its sides.
        dtype: storage dtype.
        rank: for an adapter's delta that is a LowRank, the number of columns of its factors; else None.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    rank: int | None = None


@dataclass(frozen=True)
class HubOptions:
    """What `from_pretrained` takes too: how sources on the Hub are reached. The token is never shown."""

    token: str | bool | None = field(default=None, repr=False)
    revision: str | None = None
    subfolder: str | None = None
    cache_dir: str | None = None
    local_files_only: bool = False


class WeightSource(Protocol):
    """Whole weights, by name: a live module or a checkpoint."""

    label: str

    def specs(self) -> Mapping[str, TensorSpec]:
        """All tensors, tied ones once, under the names they have on disk; reads headers only."""

    def load(self, name: str) -> Tensor:
        """One tensor in its storage dtype. It may share memory with the source: never write to it."""


class Expert(Protocol):
    """One expert's change of the base, by the base's tensor names."""

    @property
    def label(self) -> str:
        """What messages call it."""

    def specs(self) -> Mapping[str, TensorSpec]:
        """The tensors that this expert may change, with the shape that the base's tensor must have."""

    def delta(self, name: str, base: ReadBase) -> Tensor | LowRank | None:
        """The task vector, float32 (None: zero)."""

    def weight(self, name: str, base: ReadBase) -> Tensor:
        """The expert's own weights, float32."""
