"""From a recipe to the plan of a streamed merge: all that headers and configs can tell, before a tensor is read."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ..errors import Problems, RequestError, all_or_every_error, label_of, show
from ..models.sources import SourceModel, open_source
from ..models.types import HubOptions, TensorSpec
from ..recipes.parameters import filters_of
from ..recipes.types import PASSTHROUGH, ModelReference, Recipe, TensorJob
from ..registry import get_method
from .depth import Stack, changed_stacks, set_depths
from .matching import match_vocabularies
from .order import name_of, order_of
from .plan import Group, kind_of, spacing_of
from .request import Request, resolve_device, resolve_dtype
from .stream_plan import Input, Step, StreamPlan
from .vocabularies import drop_tied_copies, shape_problem


def make_stream_plan(
    recipe: Recipe,
    *,
    hub: HubOptions | None = None,
    device: str | torch.device = "auto",
) -> StreamPlan:
    """Open the models of a recipe and work out every step; reads headers and configs.

    Raises:
        RequestError: what cannot be merged, all of it listed.
        SourceError: a model that cannot be read.
    """
    where = resolve_device(device)
    stored = resolve_dtype(recipe.out_dtype or recipe.dtype)
    models = open_models(recipe, hub or HubOptions())
    recipe = dataclasses.replace(recipe, warnings=(*recipe.warnings, *_other_bases(models)))
    drop_tied_copies(models, recipe.base or 0, recipe.label)
    vocabulary, models = match_vocabularies(recipe, models)
    problems = Problems(f"{recipe.label}: these models cannot be merged")
    _check_kinds(models, recipe, problems)
    counts = [model.layers for model in models]
    problems.raise_any()
    jobs = recipe.jobs([{name: spec.shape for name, spec in model.specs.items()} for model in models], counts)
    steps = []
    for job in jobs:
        try:
            step = _step(job, recipe, models, stored, where, problems)
        except RequestError as problem:
            problems.add(f"{job.name}: {problem}")
            continue
        if step is not None:
            steps.append(step)
    # As safetensors itself orders them: the output then depends on no order of files, and reads run front to back.
    steps.sort(key=lambda step: step.job.name)
    names = [step.job.name for step in steps]
    for name in sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()):
        problems.add(f"{name!r} is made twice")
    if not steps and not problems.found:
        problems.add("no tensor comes out")
    constants = _constants(models, recipe.base or 0, problems)
    problems.raise_any()
    stacks = changed_stacks(models[recipe.base or 0], steps)
    warnings = (
        *recipe.warnings,
        *_idle_filters(recipe, models, steps),
        *_named_twice(recipe, models, steps),
        *_unsaid_depths(models[recipe.base or 0], stacks),
        *_without_config(models[recipe.base or 0]),
        *_nothing_merged(recipe, steps),
    )
    layers = recipe.layers(counts)
    if layers is None:
        layers = next((len(stack.origins) for stack in stacks if stack.main), None)
    recipe = dataclasses.replace(recipe, warnings=warnings)
    return StreamPlan(recipe, models, tuple(steps), constants, where, layers, vocabulary, stacks)


def open_models(recipe: Recipe, hub: HubOptions) -> tuple[SourceModel, ...]:
    """Open all models; what is wrong with each is listed."""
    jobs = [partial(_open_model, recipe, each, hub) for each in recipe.models]
    return tuple(all_or_every_error(jobs, f"{recipe.label}: several models cannot be read"))


def _open_model(recipe: Recipe, named: ModelReference, hub: HubOptions) -> SourceModel:
    """Open one model; an error says where the recipe names it."""
    try:
        return open_source(named.source, named.adapters, label_of(named.given or named.source), hub)
    except RequestError as problem:
        raise recipe.told(named, problem) from None


def _other_bases(models: Sequence[SourceModel]) -> list[str]:
    """A warning for each model that several adapters are applied to which record different bases."""
    found = []
    for folder in dict.fromkeys(model.found.folder for model in models):
        same = [model for model in models if model.found.folder == folder]
        names = {each.label: each.adapter.base_name for model in same for _, each in model.adapters}
        known = {label: name for label, name in names.items() if name}
        if len(set(known.values())) > 1:
            each = ", ".join(f"{label}: {name}" for label, name in known.items())
            found.append(f"adapters of one model record different bases ({each}): their changes may not fit together")
    return found


def _idle_filters(recipe: Recipe, models: Sequence[SourceModel], steps: Sequence[Step]) -> list[str]:
    """A warning for each filter that occurs in no tensor's name: mostly a slip of the pen."""
    names = {step.job.name for step in steps}.union(*(model.specs for model in models))
    return [
        f"filter {show(each)} occurs in the name of no tensor: its value is used nowhere"
        for each in dict.fromkeys(filters_of(recipe.given))
        if each != "*" and not any(each in name for name in names)
    ]


def _named_twice(recipe: Recipe, models: Sequence[SourceModel], steps: Sequence[Step]) -> list[str]:
    """A warning for each model that is merged with itself, or with the base that it is, under another name.

    No error: mergekit merges them too, for it goes by names.
    """
    places = [(each.found.folder.resolve(), *(found.folder.resolve() for found, _ in each.adapters)) for each in models]
    if len(set(places)) == len(places):
        return []
    merged = {(tuple(index for index, _ in step.job.inputs), step.job.base and step.job.base[0]) for step in steps}
    together = {pair for inputs, _ in merged for pair in itertools.combinations(sorted(inputs), 2)}
    still = {(index, base) for inputs, base in merged for index in inputs if base is not None}
    return [
        f"{models[first].label} and {models[second].label} are one model, which {what}; name it in one way if that is "
        "not meant"
        for pairs, what in ((together, "counts twice"), (still, "counts as an expert that changed nothing"))
        for first, second in sorted(pairs)
        if places[first] == places[second]
    ]


def _unsaid_depths(main: SourceModel, stacks: Sequence[Stack]) -> list[str]:
    """A warning for each stack whose new number of layers has no place in the config."""
    config = json.loads(json.dumps(main.config))
    return [
        f"{stack.prefix} has {len(stack.origins)} layers in the output and {stack.before} in {main.label}, whose "
        "config.json has no number for them that is known here: set it by hand, or the output does not load"
        for stack in (set_depths(config, stacks) if config else ())
    ]


def _without_config(main: SourceModel) -> list[str]:
    """A warning where the output gets no config, for there is none to take."""
    if main.config:
        return []
    return [f"{main.label} has no config.json, so the output gets none: put one beside it, or the output does not load"]


def _nothing_merged(recipe: Recipe, steps: Sequence[Step]) -> list[str]:
    """A warning where a method has nothing to do: `models` that lists the base alone."""
    if recipe.method in ("", PASSTHROUGH) or any(step.request is not None for step in steps):
        return []
    return [f"{recipe.method} has no model to merge beside the base, so every tensor is a copy: list the others too"]


def _check_kinds(models: Sequence[SourceModel], recipe: Recipe, problems: Problems) -> None:
    main = models[recipe.base or 0]
    kind = main.config.get("model_type")
    for model in models:
        other = model.config.get("model_type")
        if kind and other and other != kind:
            problems.add(f"{model.label}: a model of type {other!r}, {main.label} is a {kind!r}")


def _step(
    job: TensorJob,
    recipe: Recipe,
    models: Sequence[SourceModel],
    stored: torch.dtype | None,
    device: torch.device,
    problems: Problems,
) -> Step | None:
    """One job's step; None where it is left out or something is wrong with it, which is noted."""
    wanted = [*job.inputs, *([job.base] if job.base else [])]
    if job.optional and not any(name in models[index].specs for index, name in job.inputs):
        return None
    missing = [(index, name) for index, name in wanted if name not in models[index].specs]
    for index, name in missing:
        problems.add(f"{models[index].label}: {name!r} is missing, which {job.name!r} is made of")
    if missing:
        return None
    index, name = job.base or job.inputs[0]
    spec = models[index].specs[name]
    for other, its in wanted:
        theirs = models[other].specs[its].shape
        if theirs != spec.shape:
            problems.add(shape_problem(job.name, models[index], spec.shape, models[other], theirs))
            return None
    spec = TensorSpec(spec.shape, stored or spec.dtype)
    base = None if job.base is None else (models[job.base[0]], job.base[1])
    if job.method == PASSTHROUGH:
        return _copy(job, spec, models)
    return _merge(job, recipe, models, spec, base, device)


def _copy(job: TensorJob, spec: TensorSpec, models: Sequence[SourceModel]) -> Step:
    if len(job.inputs) != 1:
        raise RequestError(f"passthrough copies one tensor, and {len(job.inputs)} are given")
    scale = job.parameters.get("scale")
    index, name = job.inputs[0]
    source = _input(models[index], name, job, models[index].label, None)
    return Step(job, spec, (source,), None, factor=1.0 if scale is None else float(scale))


def _merge(
    job: TensorJob,
    recipe: Recipe,
    models: Sequence[SourceModel],
    spec: TensorSpec,
    base: tuple[SourceModel, str] | None,
    device: torch.device,
) -> Step:
    method = get_method(job.method)
    count = len(job.inputs)
    method.check_experts(count)
    parameters = method.bind(job.parameters, count)
    weights = method.bind_weights(job.weights, count)
    method.check_request(parameters, weights)
    if base is None and method.space == "delta" and not method.weight_form:
        raise RequestError(f"method {method.name!r} works on task vectors: it needs base_model")
    roles = [recipe.models[index].role or f"expert_{place}" for place, (index, _) in enumerate(job.inputs, start=1)]
    inputs = [
        _input(models[index], name, job, role, base) for role, (index, name) in zip(roles, job.inputs, strict=True)
    ]
    named = [name_of(recipe.models[index].source, recipe.models[index].adapters) for index, _ in job.inputs]
    order = list(range(count)) if method.ordered else order_of(roles, named)
    request = Request(
        method=method,
        parameters={
            key: tuple(value[place] for place in order) if isinstance(value, tuple) else value
            for key, value in parameters.items()
        },
        roles=tuple(roles[place] for place in order),
        sources=tuple(inputs[place].label for place in order),
        weights=tuple(weights[place] for place in order),
        seed=recipe.seed,
        device=device,
    )
    chosen = tuple(inputs[place] for place in order)
    ranks = tuple(each.spec.rank for each in chosen)
    if base is not None and method.space == "delta" and all(each.own_base and each.spec.rank == 0 for each in chosen):
        return Step(job, spec, (_input(base[0], base[1], job, "base", None),), None)  # no adapter changes it
    if method.space == "weight" and _untouched(chosen) and method.keeps_agreement(parameters, weights):
        first = chosen[0]
        return Step(job, spec, (_input(first.model, first.name, job, first.label, None),), None)  # as live merges do
    vectors = base is not None and method.space == "delta"
    shape, stacked, spectral, low_rank, _ = kind_of(request, job.name, spec, ranks, vectors)
    rounded = [each.spec.dtype for each in chosen if each.spec.rank is None]
    spacing = spacing_of([*rounded, base[0].specs[base[1]].dtype]) if rounded and base is not None else 0.0
    names = (job.name,)
    group = Group(names, shape, stacked, spectral, ranks, low_rank, spacing, request.weights, request.parameters)
    setting = (method.name, tuple(sorted((k, v) for k, v in request.parameters.items())), request.roles)
    return Step(job, spec, chosen, base, request, group, setting=setting)


def _untouched(inputs: Sequence[Input]) -> bool:
    """Whether all are one tensor of one model with adapters, none of which changes it."""
    places = {(each.model.found.folder, each.name) for each in inputs}
    return len(places) == 1 and all(
        each.model.adapters and not each.model.changed(each.name) and each.name not in each.model.rows
        for each in inputs
    )


def _input(model: SourceModel, name: str, job: TensorJob, role: str, base: tuple[SourceModel, str] | None) -> Input:
    """An input; where it is one adapter on the very tensor that is the base, its change keeps its factors."""
    spec = model.specs[name]
    own = (
        base is not None
        and len(model.adapters) == 1
        and not base[0].adapters
        and base[0].found.folder == model.found.folder
        and base[1] == name
        and name not in model.rows
    )
    rank = model.rank(name) if own else None
    return Input(model.label, role, model, name, job.name, TensorSpec(spec.shape, spec.dtype, rank), own)


def _constants(models: Sequence[SourceModel], main: int, problems: Problems) -> Mapping[str, Tensor]:
    """Integer tensors of the main model; another's of the same name must be equal."""
    found = models[main].constants
    for model in models:
        for name, tensor in model.constants.items():
            if name in found and not torch.equal(found[name], tensor):
                problems.add(f"{model.label}: {name!r} holds integers and differs from {models[main].label}'s")
    return found
