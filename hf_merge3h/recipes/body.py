"""The inside of a recipe: models, slices and modules, checked but not yet applied to any tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .marks import Marked, Path
from .mergekit import Rules
from .parameters import Settings


@dataclass(frozen=True)
class Source:
    """A model, or a range of its layers, that goes into a slice."""

    model: int
    path: Path
    layers: tuple[int, int] | None = None
    parameters: Settings = field(default_factory=dict)
    implied: bool = False  # the base, which the recipe does not list


@dataclass(frozen=True)
class Slice:
    """What is merged together: all layers of the sources, or as many of each."""

    sources: tuple[Source, ...]
    path: Path
    parameters: Settings = field(default_factory=dict)

    @property
    def length(self) -> int | None:
        """How many layers, None for all."""
        layers = self.sources[0].layers
        return None if layers is None else layers[1] - layers[0]


@dataclass(frozen=True)
class Module:
    """A part of the output model."""

    name: str
    slices: tuple[Slice, ...]
    path: Path
    parameters: Settings = field(default_factory=dict)

    @property
    def length(self) -> int | None:
        """How many layers come out, None for as many as the models have."""
        lengths = [each.length for each in self.slices]
        return None if None in lengths else sum(length for length in lengths if length is not None)


@dataclass(frozen=True)
class Body:
    """All that the jobs are made from."""

    rules: Rules
    modules: tuple[Module, ...]
    base: int | None
    parameters: Settings
    labels: tuple[str, ...]
    text: Marked
    matched: bool = False  # rows of embeddings are matched by token: their shapes may differ
    roles: Mapping[int, str] = field(default_factory=dict)
