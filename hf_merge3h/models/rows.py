"""The rows of an embedding in another vocabulary's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .sources import SourceModel


@dataclass(frozen=True)
class Filling:
    """A row that a model has not: the mean of other models' rows.

    Attributes:
        place: of the row in the output.
        sources: models and the tensors' names in them, each with a row there.
    """

    place: int
    sources: tuple[tuple[tuple[SourceModel, str], int], ...]


@dataclass(frozen=True)
class Rows:
    """Where each row of one of a model's tensors comes from.

    Attributes:
        own: the model's own row for each of the output, -1 for none: zero, if no filling has it.
        fillings: rows of other models.
        padding: how many rows stand at the end without a token: each is the mean of those before them.
    """

    own: Sequence[int]
    fillings: tuple[Filling, ...] = ()
    padding: int = 0

    @cached_property
    def _prefix(self) -> bool:
        """Whether the output has the model's first rows, as they are."""
        return not self.fillings and all(place == row for place, row in enumerate(self.own))

    def apply(self, tensor: Tensor) -> Tensor:
        """The model's tensor [own rows, ...] in the output's rows; float32 where rows are means."""
        if self._prefix:
            return tensor[: len(self.own)]
        own = torch.tensor(self.own)
        loaded = {(id(model), name): model.raw(name) for each in self.fillings for (model, name), _ in each.sources}
        means = any(len(each.sources) > 1 for each in self.fillings)
        dtype = torch.float32 if means else tensor.dtype
        for other in loaded.values():
            dtype = torch.promote_types(dtype, other.dtype)
        result = tensor.index_select(0, own.clamp_min(0)).to(dtype)
        result[own < 0] = 0
        for each in self.fillings:
            rows = [loaded[id(model), name][row].to(dtype) for (model, name), row in each.sources]
            result[each.place] = rows[0] if len(rows) == 1 else torch.stack(rows).mean(0)
        if self.padding:
            result[-self.padding :] = result[: -self.padding].mean(0)
        return result
