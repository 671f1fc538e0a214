"""From whatever a user names as a base or an expert to something that the engine can read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import Problems, RequestError, bad, label_of, show
from .adapters.folder import load_adapter, meta_copy
from .adapters.folder import read_config as read_adapter_config
from .adapters.loaded import loaded_origin
from .adapters.read import AdapterDeltas, base_names, read_adapter
from .experts import AdaptedBase, WholeModel
from .hub import ResolvedSource, resolve
from .origin import Origin, live_origin, origin_of
from .types import HubOptions
from .weights.checkpoint import Checkpoint, read_config
from .weights.compare import compare
from .weights.expert import open_expert_weights
from .weights.headers import ADAPTER_WEIGHTS, weight_files
from .weights.loading import check_folder, load_whole
from .weights.module import LiveModule, live_expert

_WAYS = "a Hub id, a local folder, a live module or a PeftModel"


@dataclass(frozen=True)
class Base:
    """The model that task vectors are counted from.

    Attributes:
        weights: its tensors.
        label: what a report calls it.
        origin: where it came from.
        identity: what it would be recognised by among the experts (the module, a resolved folder, a Hub id).
    """

    weights: LiveModule | Checkpoint
    label: str
    identity: tuple[Any, ...]
    origin: Origin


def is_peft_model(thing: object) -> bool:
    """Whether this is a PeftModel; imports nothing (such an object's class is imported already)."""
    module = sys.modules.get("peft.peft_model")
    return module is not None and isinstance(thing, module.PeftModel)


def fetch(source: Any, argument: str, hub: HubOptions) -> ResolvedSource:
    """The folder of a source that is named by a string or path."""
    if not isinstance(source, (str, os.PathLike)):
        raise bad(argument, source, _WAYS)
    try:
        return resolve(
            source,
            token=hub.token,
            revision=hub.revision,
            subfolder=hub.subfolder,
            cache_dir=hub.cache_dir,
            local_files_only=hub.local_files_only,
        )
    except RequestError as problem:  # of several sources, the user has to know which
        raise problem.renamed(argument) if problem.argument == "source" else problem from None


def live_base(live: LiveModule, hub: HubOptions) -> Base:
    """The live model as it stands, as the base."""
    config = getattr(live.model, "config", None)
    path = getattr(config, "_name_or_path", "") or ""
    return Base(live, path or type(live.model).__name__, (live.model,), live_origin(live.model, hub))


def open_base(source: Any, live: LiveModule, hub: HubOptions) -> Base:
    """Another model than the live one as the base."""
    if isinstance(source, nn.Module):
        if is_peft_model(source):
            raise bad("base", type(source).__name__, "whole weights", "give its get_base_model(), unloaded")
        weights: LiveModule | Checkpoint = live_expert(source, live, "base")
        problems = Problems("base does not fit the model")
        compare(live, weights, problems, live.vocabulary)
        problems.raise_any()
        return Base(weights, type(source).__name__, (source,), live_origin(source, hub))
    found = fetch(source, "base", hub)
    if found.kind == "adapter":
        raise bad("base", str(source), "whole weights, and this is an adapter", "give it among the experts")
    identity = (str(source), found.folder.resolve(), _name(found))
    weights = open_expert_weights(found.folder, live, "base")
    return Base(weights, _name(found), identity, _whole_origin(found, hub))


def open_expert(role: str, source: Any, live: LiveModule, base: Base, hub: HubOptions) -> WholeModel | AdaptedBase:
    """One expert of whole weights: a model or an adapter, live, on disk or on the Hub.

    Raises:
        RequestError: it is the base, or does not fit it.
        SourceError: it cannot be read.
    """
    if _among(source, base.identity):
        raise _is_base(role, source)
    if is_peft_model(source):
        return AdaptedBase(_active_adapter(source, role, hub), live.names, role)
    if isinstance(source, nn.Module):
        expert = live_expert(source, live, role)
        problems = Problems(f"{role} cannot be merged into the base")
        compare(live, expert, problems, live.vocabulary)
        problems.raise_any()
        if _unchanged(expert, base.weights, live):
            raise _is_base(role, source)
        return WholeModel(expert, role, live_origin(source, hub))
    found = fetch(source, f"experts[{role!r}]", hub)
    label = f"{role} ({label_of(str(source))})"
    if found.kind == "adapter":
        return AdaptedBase(_load_adapter(found, meta_copy(live.model), label, hub), live.names, label)
    spellings = (str(source), found.folder.resolve(), _name(found))
    if any(_among(spelling, base.identity) for spelling in spellings):
        raise _is_base(role, source)
    weights = open_expert_weights(found.folder, live, label)
    if _unchanged(weights, base.weights, live):
        raise _is_base(role, source)
    return WholeModel(weights, label, _whole_origin(found, hub))


def _whole_origin(found: ResolvedSource, hub: HubOptions) -> Origin:
    label = _name(found)
    files = [found.folder / name for name in weight_files(found.folder, label)]
    return origin_of(found, files, hub, read_config(found.folder, label))


def _load_adapter(found: ResolvedSource, skeleton: nn.Module, label: str, hub: HubOptions) -> AdapterDeltas:
    adapter = load_adapter(found.folder, skeleton, label)
    adapter.origin = origin_of(found, [found.folder / ADAPTER_WEIGHTS], hub)
    return adapter


def _among(source: Any, identity: tuple[Any, ...]) -> bool:
    """Whether a source is one of these modules, names or folders."""
    if isinstance(source, nn.Module):
        return any(source is known for known in identity)
    return isinstance(source, (str, os.PathLike)) and str(source) in [
        str(k) for k in identity if isinstance(k, (str, Path))
    ]


def _unchanged(expert: LiveModule | Checkpoint, base: LiveModule | Checkpoint, live: LiveModule) -> bool:
    """Whether an expert holds what the base does, wherever it lies (it stops at the first tensor that differs)."""
    return all(torch.equal(expert.load(name).float().cpu(), base.load(name).float().cpu()) for name in live.specs())


def _is_base(role: str, source: Any) -> RequestError:
    shown = show(source) if isinstance(source, (str, Path)) else type(source).__name__
    return RequestError(f"experts[{role!r}]={shown}: this is the base, whose change is zero; leave it out")


def _active_adapter(model: Any, role: str, hub: HubOptions) -> AdapterDeltas:
    active = model.active_adapters
    if len(active) != 1:
        raise bad(f"experts[{role!r}]", active, "a PeftModel with one active adapter", "call set_adapter(name) first")
    return _read_loaded(model, active[0], role, hub)


def _read_loaded(model: Any, name: str, label: str, hub: HubOptions) -> AdapterDeltas:
    adapter = read_adapter(model, name, label)
    adapter.origin = loaded_origin(model, name, adapter.origin, hub)
    return adapter


def open_adapter(
    role: str, source: Any, model: Any, skeleton: Callable[[], nn.Module], hub: HubOptions
) -> AdapterDeltas:
    """One adapter to be merged into an adapter: loaded in this PeftModel, or in a folder, or on the Hub.

    Args:
        role: of the expert.
        source: the name of a loaded adapter, a folder, a Hub id, or another PeftModel with one active adapter.
        model: the PeftModel that gets the result.
        skeleton: a function that gives the plain base without weights.
        hub: options.
    """
    if isinstance(source, str) and source in model.peft_config:
        return _read_loaded(model, source, source, hub)
    if is_peft_model(source):
        return _active_adapter(source, role, hub)
    if isinstance(source, nn.Module):
        raise bad(
            f"adapters[{role!r}]", type(source).__name__, "an adapter",
            "whole models merge into whole weights: get_base_model().merge_3h(...) on the unloaded base",
        )  # fmt: skip
    if isinstance(source, str) and "/" not in source and not Path(source).exists():
        loaded = ", ".join(repr(name) for name in model.peft_config)
        raise bad(f"adapters[{role!r}]", source, f"the name of a loaded adapter ({loaded}), a folder or a Hub id")
    found = fetch(source, f"adapters[{role!r}]", hub)
    if found.kind != "adapter":
        raise bad(
            f"adapters[{role!r}]", str(source), "an adapter, and this is a whole model",
            "whole models merge into whole weights: hf_merge3h.merge(base, experts)",
        )  # fmt: skip
    return _load_adapter(found, skeleton(), adapter_label(role, source), hub)


def adapter_label(role: str, source: Any) -> str:
    """What reports call an adapter that was read from a folder or the Hub."""
    return f"{role} ({label_of(str(source))})"


def plain_skeleton(model: Any) -> nn.Module:
    """The base of a PeftModel as it was before PEFT came, without its weights."""
    copied: Any = meta_copy(model)
    return copied.unload()


def load_model(base: Any, experts: Sequence[Any], hub: HubOptions) -> nn.Module:
    """Load the base by transformers, or where it is None, the one base that the adapters record.

    Raises:
        RequestError: no base, or several; code that would have to be trusted.
        SourceError: it cannot be read.
    """
    if base is None:
        base = _recorded_base(experts, hub)
    found = fetch(base, "base", hub)
    if found.kind == "adapter":
        raise bad("base", str(base), "whole weights, and this is an adapter", "give it among the experts")
    return from_pretrained(found.folder, _name(found))


def _name(found: ResolvedSource) -> str:
    """What a source is called in reports and configs: the folder as given, or the Hub id with its commit."""
    return found.given if found.repo is None else f"{found.repo}@{found.commit}"


def _recorded_base(experts: Sequence[Any], hub: HubOptions) -> str:
    recorded: dict[str, str] = {}
    for source in experts:
        if isinstance(source, nn.Module):
            continue
        found = fetch(source, "experts", hub)
        if found.kind == "adapter":
            name = read_adapter_config(found.folder, str(source)).base_model_name_or_path
            if name:
                recorded[str(source)] = name
    if not recorded:
        raise bad("base", None, "the model that the experts were trained from: no expert is an adapter that records it")
    if len(set(recorded.values())) > 1:
        problems = Problems("the adapters record different bases; give the one that is meant as `base`")
        for source, name in recorded.items():
            problems.add(f"{source}: {name}")
        problems.raise_any()
    return next(iter(recorded.values()))


def from_pretrained(folder: Path, label: str) -> nn.Module:
    """The model in a folder, by the class that its config names; code in the folder is never run.

    Args:
        folder: holds config.json and safetensors; may lie in the Hub's cache.
        label: what errors call it, and what the model records as its `name_or_path`.
    """
    model = _by_class(folder, label)
    model.name_or_path = model.config._name_or_path = label
    return model


def _by_class(folder: Path, label: str) -> Any:
    import transformers

    config = check_folder(folder, label)
    for architecture in config.get("architectures") or ():
        kind = getattr(transformers, str(architecture), None)
        if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
            return load_whole(kind, folder, label)
    if config.get("auto_map"):
        raise RequestError(
            f"{label}: its architecture {config.get('architectures')} needs code from the repository, which is never "
            "run here; load the model yourself and give it as base"
        )
    return load_whole(transformers.AutoModel, folder, label)


def recorded_bases(adapters: Sequence[AdapterDeltas]) -> str:
    """A sentence about adapters that record different bases; empty where they agree."""
    names = base_names(adapters)
    if len(set(names.values())) < 2:
        return ""
    return "the adapters record different bases (" + ", ".join(f"{k}: {v}" for k, v in names.items()) + ")"
