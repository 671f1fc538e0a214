"""Models as the streaming engine sees them: a checkpoint on disk, with adapters on top if a recipe says so."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import Problems, RequestError, SourceError, bad, label_of, one_line_of
from ..linalg.low_rank import LowRank
from .hub import ResolvedSource, extra_files, resolve
from .lock import PATCHED_TORCH
from .rows import Rows
from .types import HubOptions, TensorSpec
from .weights.checkpoint import Checkpoint
from .weights.headers import ADAPTER_CONFIG
from .weights.loading import open_folder

if TYPE_CHECKING:
    from .experts import AdaptedBase

#: Where the number of layers stands in a config.
LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
#: What belongs to a model beside its weights and config.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
    "chat_template.json", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip


@dataclass(frozen=True)
class SourceModel:
    """One model of a recipe, opened: headers and config are read, tensors are not.

    Attributes:
        label: how messages call it.
        found: where it lies.
        checkpoint: its weights.
        adapters: applied to it in this order, each with where it lies.
        config: what config.json says.
        rows: how the rows of embeddings are put in another vocabulary's order, by tensor.
    """

    label: str
    found: ResolvedSource
    checkpoint: Checkpoint
    adapters: tuple[tuple[ResolvedSource, AdaptedBase], ...]
    config: Mapping[str, Any]
    hub: HubOptions
    rows: Mapping[str, Rows] = field(default_factory=dict)

    @functools.cached_property
    def specs(self) -> dict[str, TensorSpec]:
        """Floating-point tensors, in their storage dtypes."""
        return self.checkpoint.specs()

    @functools.cached_property
    def constants(self) -> Mapping[str, Tensor]:
        """Integer tensors."""
        return self.checkpoint.constants()

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The part of the config that describes the language model."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @property
    def layers(self) -> int | None:
        """The number of layers, as the config tells it."""
        for config in (self.config, self.text_config):
            for key in LAYER_KEYS:
                if isinstance(config.get(key), int):
                    return config[key]
        return None

    def with_rows(self, rows: Mapping[str, Rows], specs: Mapping[str, TensorSpec]) -> SourceModel:
        """This model with embeddings in another vocabulary's order, of the shapes that `specs` says."""
        made = replace(self, rows=rows)
        made.__dict__["specs"] = dict(specs)
        return made

    def load(self, name: str) -> Tensor:
        """One tensor: as stored, or float32 where an adapter changes it. Never write to it."""
        tensor = self.raw(name)
        return self.rows[name].apply(tensor) if name in self.rows else tensor

    def raw(self, name: str) -> Tensor:
        """The same, with an embedding's rows as they lie in the file."""
        tensor = self.checkpoint.load(name)
        for _, adapter in self.adapters:
            if name in adapter.specs():
                before = tensor.float()
                tensor = adapter.weight(name, lambda before=before: before)  # type: ignore[misc]
        return tensor

    def delta(self, name: str, base: Tensor) -> Tensor | LowRank | None:
        """What a single adapter changes of one tensor of its own base."""
        return self.adapters[0][1].delta(name, lambda: base.float())

    def changed(self, name: str) -> bool:
        """Whether an adapter changes this tensor."""
        return any(name in adapter.specs() for _, adapter in self.adapters)

    def rank(self, name: str) -> int | None:
        """The rank of a single adapter's change (0 where it changes nothing, None where it is dense)."""
        specs = self.adapters[0][1].specs()
        return specs[name].rank if name in specs else 0

    def side_files(self, names: Sequence[str]) -> tuple[Path, ...]:
        """Those of these files that the model has; from the Hub they are fetched now."""
        return extra_files(self.found, names, self.hub)


def open_source(source: str, adapters: Sequence[str], label: str, hub: HubOptions) -> SourceModel:
    """Open a model of whole weights, and the adapters on it.

    Raises:
        RequestError: quantised, an adapter where a model belongs, an adapter that does not fit.
        SourceError: the files cannot be read.
    """
    found = _resolve(source, hub, headers_only=True)
    if found.kind == "adapter":
        raise RequestError(
            f"{label}: is an adapter, and a model belongs here; write it as base_model+adapter, or merge adapters with "
            "peft_model.merge_3h"
        )
    config, checkpoint = open_folder(found.folder, label, found.remote)
    opened = _open_adapters(adapters, found, checkpoint, label, hub) if adapters else ()
    return SourceModel(label, found, checkpoint, opened, config, hub)


def _resolve(source: str, hub: HubOptions, headers_only: bool = False) -> ResolvedSource:
    return resolve(
        source, token=hub.token, cache_dir=hub.cache_dir, local_files_only=hub.local_files_only,
        headers_only=headers_only,
    )  # fmt: skip


def _open_adapters(
    adapters: Sequence[str], found: ResolvedSource, checkpoint: Checkpoint, label: str, hub: HubOptions
) -> tuple[tuple[ResolvedSource, AdaptedBase], ...]:
    from .adapters.folder import load_adapter
    from .experts import AdaptedBase
    from .weights.names import NameMap

    skeleton = skeleton_of(found.folder, checkpoint.config, label)
    names = NameMap(skeleton)
    opened = []
    problems = Problems(f"{label}: its adapters cannot be applied", SourceError)
    for source in adapters:
        name = f"{found.given}+{label_of(source)}"
        try:
            place = _resolve(source, hub)
            if place.kind != "adapter":
                raise bad("adapter", source, f"an adapter; one has an {ADAPTER_CONFIG}")
            adapter = AdaptedBase(load_adapter(place.folder, skeleton, name), names, name)
        except RequestError as problem:
            problem.within = source
            raise
        specs = checkpoint.specs()
        for each, spec in adapter.specs().items():
            if each not in specs or specs[each].shape != spec.shape:
                problems.add(
                    f"{name}: changes {each!r} of shape {list(spec.shape)}, and the checkpoint has "
                    + (f"shape {list(specs[each].shape)}" if each in specs else "no such tensor")
                )
        opened.append((place, adapter))
    problems.raise_any()
    return tuple(opened)


def skeleton_of(folder: Path, config: Mapping[str, Any], label: str) -> Any:
    """The model's structure without weights, by the class that its config names; code in the folder is never run."""
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    kinds = [getattr(transformers, str(name), None) for name in config.get("architectures") or ()]
    kind: Any = next((each for each in kinds if hasattr(each, "_from_config")), None)
    if kind is None:
        raise RequestError(
            f"{label}: adapters need the model's structure, and transformers has no {config.get('architectures')}; "
            "merge the adapter into its model first (merge_and_unload)"
        )
    try:
        described = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        with PATCHED_TORCH, torch.device("meta"):
            return kind._from_config(described)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, StrictDataclassError) as problem:
        raise SourceError(f"{label}: its config.json describes no model: {one_line_of(problem)}") from None
