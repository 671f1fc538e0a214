"""Recipes with `out: adapter`: adapters of one base, merged into an adapter as `peft_model.merge_3h` does it."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import Problems, RequestError
from ..manifest import NOT_RECORDED, Manifest
from ..models.adapters.folder import host_model, load_adapter
from ..models.adapters.read import AdapterDeltas, widest
from ..models.hub import ResolvedSource, describe, resolve
from ..models.open import adapter_label
from ..models.origin import origin_of
from ..models.sources import LAYER_KEYS, skeleton_of
from ..models.types import HubOptions, TensorSpec
from ..models.weights.checkpoint import read_config
from ..models.weights.headers import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ..models.weights.output import OutputFolder
from ..recipes.types import Recipe, TensorJob
from ..registry import get_method
from .doors import merge_adapters
from .finish import finish
from .request import resolve_device, resolve_dtype
from .saved import saved_manifest
from .stream_plan import Tell

_Key = tuple[str, str, int, int]
_NAME = "default"  # PEFT saves this adapter into the folder itself
_MARGIN = 1 << 22  # bytes of config and manifest


@dataclass(frozen=True)
class AdapterPlan:
    """A merge of adapters that can be carried out.

    Attributes:
        recipe: with the seed that counts.
        base: where its config lies; no weights are read.
        skeleton: the base's structure.
        sources, adapters: one for each expert: what the recipe names, and its change.
        job: one of the jobs, all of which say the same.
        device, dtype: to compute on, and of the result (None: the widest of the adapters').
        opened: what was read, by name, folder and state of the file: another plan need not read it again.
    """

    recipe: Recipe
    base: ResolvedSource
    skeleton: nn.Module
    sources: Mapping[str, str]
    adapters: tuple[AdapterDeltas, ...]
    job: TensorJob
    device: torch.device
    dtype: torch.dtype | None
    hub: HubOptions
    opened: Mapping[_Key, Any] = field(default_factory=dict, repr=False)

    @property
    def bytes_read(self) -> int:
        """Of the adapters' files."""
        return sum(size for adapter in self.adapters for _, size, _ in adapter.origin.files)

    @property
    def bytes_written(self) -> int:
        """Of the result's factors at most: a method may find that a smaller rank does."""
        size = (self.dtype or widest(adapter.dtype for adapter in self.adapters)).itemsize
        total = 0
        for name, spec in self.specs.items():
            rows, columns = spec.shape[0], math.prod(spec.shape[1:])
            ranks = [adapter.rank_of(name) for adapter in self.adapters if name in adapter.specs()]
            known = [rank for rank in ranks if rank is not None]
            if len(spec.shape) < 2 or len(known) < len(ranks):
                total += math.prod(spec.shape) * size
            else:
                total += (rows + columns) * sum(known) * size
        return total

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """What is changed: the parameters of the base."""
        return {name: spec for adapter in self.adapters for name, spec in adapter.specs().items()}


def plan_adapters(
    recipe: Recipe,
    *,
    hub: HubOptions,
    device: str | torch.device = "auto",
    reuse: Any = None,
) -> AdapterPlan:
    """Open the adapters of a recipe, and check that one adapter can hold their merge; no weights of the base are read.

    What another plan (`reuse`) has read of the same files for the same base is not read again.

    Raises:
        RequestError: experts that are no adapters, settings that differ from tensor to tensor, methods of weights.
        SourceError: what cannot be read.
    """
    where, stored = resolve_device(device), resolve_dtype(recipe.out_dtype or recipe.dtype)
    base, names = _experts(recipe)
    try:
        found = describe(base, hub)
    except RequestError as problem:
        raise recipe.told(recipe.models[recipe.base or 0], problem) from None
    config = read_config(found.folder, base)
    known = reuse.opened if isinstance(reuse, AdapterPlan) else {}
    key = _key(base, found.folder / "config.json")
    skeleton = known.get(key)
    if skeleton is None:  # adapters are read for a skeleton
        skeleton, known = skeleton_of(found.folder, config, base), {}
    read: dict[_Key, Any] = {key: skeleton}
    problems = Problems(f"{recipe.label}: these adapters cannot be merged into an adapter")
    opened: dict[int, AdapterDeltas] = {}
    for index, name in names.items():
        try:
            opened[index] = _open(name, skeleton, hub, known, read)
        except RequestError as problem:
            problem.within = name
            problems.add(str(recipe.told(recipe.models[index], problem)))
    problems.raise_any()
    shapes = {name: tuple(parameter.shape) for name, parameter in skeleton.named_parameters()}
    job = _one_setting(recipe, shapes, _layers(config), opened, problems)
    for adapter in opened.values():
        needy = [name for name in adapter.specs() if adapter.needs_base(name)]
        if needy:
            problems.add(
                f"{adapter.label}: its change of {needy[0]!r} depends on the base's weights (DoRA, modules_to_save): "
                "load the base and use peft_model.merge_3h"
            )
    problems.raise_any()
    roles = {recipe.models[index].role: names[index] for index, _ in job.inputs}
    adapters = tuple(opened[index] for index, _ in job.inputs)
    plan = AdapterPlan(recipe, found, skeleton, roles, adapters, job, where, stored, hub, read)
    _check_method(plan)
    return plan


def merge_adapter_plan(
    plan: AdapterPlan, out: Path, *, diagnostics: bool = True, overwrite: bool = False, progress: bool | Tell = True
) -> Manifest:
    """Carry out a plan into a folder that `PeftModel.from_pretrained` loads; it appears whole or not at all."""
    output = OutputFolder(out, overwrite=overwrite)
    output.check()
    output.spare((name, Path(path).parent) for name, path, *_ in plan.opened)
    output.check_space(len(plan.adapters) * plan.bytes_read + _MARGIN)
    host = host_model(plan.skeleton)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the manifest has them
        merge_adapters(
            host, plan.sources, method=plan.job.method, weights=list(plan.job.weights), adapter_name=_NAME, rank=None,
            seed=plan.recipe.seed, device=plan.device, dtype=plan.dtype, progress=progress, overwrite=False,
            hub=plan.hub, parameters=plan.job.parameters, at_hand=_labelled(plan),
        )  # fmt: skip
        report = vars(host).pop("merge_report")  # saving is not to write the manifest of a live merge
        base = origin_of(plan.base, [], plan.hub, read_config(plan.base.folder, plan.base.given))
        report.base_origin = base.facts()
        with output as folder:
            host.save_pretrained(str(folder), selected_adapters=[_NAME], save_embedding_layers=False)
            # safetensors makes files that nobody else may read, whatever the umask says
            (folder / ADAPTER_WEIGHTS).chmod((folder / ADAPTER_CONFIG).stat().st_mode)
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form
            live = saved_manifest(folder, report)
            assert live is not None
            return finish(folder, _manifest(plan, live, diagnostics))


def _labelled(plan: AdapterPlan) -> dict[str, AdapterDeltas]:
    """The plan's adapters by role, called what a live merge calls them."""
    found = {}
    for (role, source), adapter in zip(plan.sources.items(), plan.adapters, strict=True):
        found[role] = copy.copy(adapter)
        found[role].label = adapter_label(role, source)
    return found


def _manifest(plan: AdapterPlan, live: Manifest, diagnostics: bool) -> Manifest:
    recipe = plan.recipe
    content = {
        **live.content,
        "made_by": "recipe",
        "recipe": {**live.content["recipe"], "given": recipe.given, "label": recipe.label},
        "warnings": [*recipe.warnings, *live.content["warnings"]],
    }
    if not diagnostics:
        content["diagnostics"] = NOT_RECORDED
        content["output"] = {**content["output"], "hashes": NOT_RECORDED}
        content["models"] = [
            {
                **model,
                "hashes": NOT_RECORDED,
                "adapters": [{**each, "hashes": NOT_RECORDED} for each in model["adapters"]],
            }
            for model in content["models"]
        ]
    return Manifest(content, live.tensors)


def _experts(recipe: Recipe) -> tuple[str, dict[int, str]]:
    """The base, and each expert's adapter by the model's index."""
    problems = Problems(f"{recipe.label}: out: adapter needs experts that are adapters of one base")
    experts = {index: each for index, each in enumerate(recipe.models) if index != recipe.base and each.role}
    bases = {each.source for index, each in enumerate(recipe.models) if index in experts or index == recipe.base}
    if len(bases) > 1:
        problems.add(f"{recipe.at('out')}: these are several bases: {', '.join(sorted(bases))}")
    for each in experts.values():
        if len(each.adapters) != 1:
            name = each.given or each.source
            problems.add(
                f"{recipe.at(*each.path)}: {name}: expected one adapter: base+adapter, or the recipe's `adapters`"
            )
    for key in ("tokenizer_source", "tokenizer", "chat_template"):
        if recipe.given.get(key) is not None:
            problems.add(f"{recipe.at(key)}: an adapter has neither tokenizer nor chat template; leave {key} out")
    problems.raise_any()
    return next(iter(bases)), {index: each.adapters[0] for index, each in experts.items()}


def _key(name: str, path: Path) -> _Key:
    """What a file is, as far as can be told without reading it."""
    state = path.stat() if path.is_file() else None
    return (name, str(path), *((state.st_size, state.st_mtime_ns) if state else (-1, -1)))


def _open(
    name: str, skeleton: nn.Module, hub: HubOptions, known: Mapping[_Key, Any], read: dict[_Key, Any]
) -> AdapterDeltas:
    found = resolve(
        name, token=hub.token, cache_dir=hub.cache_dir, local_files_only=hub.local_files_only, kind="adapter"
    )
    weights, config = _key(name, found.folder / ADAPTER_WEIGHTS), _key(name, found.folder / ADAPTER_CONFIG)
    adapter = known.get(weights) if config in known else None
    if adapter is None:
        adapter = load_adapter(found.folder, skeleton, name)
        adapter.origin = origin_of(found, [found.folder / ADAPTER_WEIGHTS], hub)
    read |= {weights: adapter, config: adapter}
    return adapter


def _layers(config: Mapping[str, Any]) -> int | None:
    text = config.get("text_config")
    found = [part.get(key) for part in (config, text if isinstance(text, dict) else {}) for key in LAYER_KEYS]
    return next((each for each in found if isinstance(each, int)), None)


def _one_setting(
    recipe: Recipe,
    shapes: Mapping[str, tuple[int, ...]],
    layers: int | None,
    opened: Mapping[int, AdapterDeltas],
    problems: Problems,
) -> TensorJob:
    """The job of a tensor that adapters change; those of all of them have to say the same."""
    changed = {name for adapter in opened.values() for name in adapter.specs()}
    jobs = recipe.jobs([shapes] * len(recipe.models), [layers] * len(recipe.models))
    ours = [job for job in jobs if job.name in changed]
    settings: dict[str, TensorJob] = {}
    for job in ours:
        if any(name != job.name for _, name in job.inputs):
            raise RequestError(
                f"{recipe.at('out')}: out: adapter keeps the base's layers: no slices, but models or adapters"
            )
        indices = tuple(index for index, _ in job.inputs)
        settings.setdefault(repr((job.method, indices, job.weights, sorted(job.parameters.items()))), job)
    if len(settings) > 1:
        one, two = list(settings.values())[:2]
        problems.add(
            f"{recipe.at('out')}: settings differ between {one.name!r} and {two.name!r} (a gradient or a filter), and "
            "adapters are merged by one; give plain values, or merge into weights"
        )
    if not settings:
        problems.add("they change no parameter of this base")
        problems.raise_any()
    job = next(iter(settings.values()))
    if {index for index, _ in job.inputs} != set(opened):
        problems.add(
            f"{recipe.at('merge_method')}: {job.method} merges the base as one of the models; an adapter comes of "
            "experts under `adapters` and a method of task vectors"
        )
    problems.raise_any()
    return job


def _check_method(plan: AdapterPlan) -> None:
    method = get_method(plan.job.method)
    parameters = method.bind(plan.job.parameters, len(plan.adapters))
    weights = method.bind_weights(plan.job.weights, len(plan.adapters))
    if "base" in method.needs or not method.takes_deltas(parameters, weights):
        raise RequestError(
            f"{plan.recipe.at('merge_method')}: merge_method {method.name} needs whole weights, and adapters are task "
            "vectors; leave `out: adapter` out, or take another method"
        )
