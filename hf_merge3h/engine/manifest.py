"""What a merge was, as a streamed merge tells it: the maker of its manifest."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..manifest import NOT_RECORDED, SCHEMA_VERSION, Manifest, plain
from ..models.hub import ResolvedSource
from ..models.origin import card_of
from ..models.types import HubOptions
from ..models.weights.headers import ADAPTER_WEIGHTS
from ..registry import get_method
from .finish import hash_files, method_facts
from .measures import TensorReport, blocks_of, summarise
from .stream_plan import Step, StreamPlan


def make_manifest(
    plan: StreamPlan,
    reports: Sequence[TensorReport],
    inputs: Mapping[Path, str],
    outputs: Mapping[str, str],
    *,
    measured: bool,
    seconds: float,
) -> Manifest:
    """What there is to say of a streamed merge.

    Args:
        plan: what was carried out.
        reports: of the tensors, where they were taken.
        inputs: BLAKE3 of the input files.
        outputs: BLAKE3 of the output's files, by name: weights and what lies beside them.
        measured: diagnostics and hashes were taken.
        seconds: how long it took.
    """
    recipe = plan.recipe
    content = {
        "schema_version": SCHEMA_VERSION,
        "kind": "weights",
        "made_by": "recipe",
        "method": _main_method(plan),
        "recipe": {"given": recipe.given, "label": recipe.label, "resolved": _resolved(plan)},
        "warnings": list(recipe.warnings),
        "seed": recipe.seed,
        "models": [_model(plan, index, inputs, measured) for index in range(len(plan.models))],
        "versions": {name: importlib.metadata.version(name) for name in ("hf-merge3h", "torch", "safetensors")},
        "device": str(plan.device),
        "seconds": round(seconds, 3),
        "output": {
            "tensors": len(plan.specs),
            "bytes": plan.bytes_written,
            "dtypes": sorted({_name(spec.dtype) for spec in plan.specs.values()}),
            "layers": plan.layers if plan.layers is not None else plan.main.layers,
            "hashes": dict(sorted(outputs.items())) if measured else NOT_RECORDED,
        },
        "diagnostics": _diagnostics(plan, reports) if measured else NOT_RECORDED,
    }
    return Manifest(json.loads(json.dumps(plain(content), allow_nan=False)), tuple(reports))


def _main_method(plan: StreamPlan) -> dict[str, str]:
    """The method by which most tensors were merged."""
    names = Counter(step.request.method.name for step in plan.steps if step.request is not None)
    return method_facts(get_method(names.most_common(1)[0][0]) if names else None)


def _resolved(plan: StreamPlan) -> list[dict[str, Any]]:
    """The settings that were used, each with the tensors that it was used for."""
    found: dict[str, dict[str, Any]] = {}
    for step in plan.steps:
        entry = _setting(plan, step)
        key = json.dumps(plain(entry), sort_keys=True)
        found.setdefault(key, {**entry, "tensors": []})["tensors"].append(step.job.name)
    return list(found.values())


def _setting(plan: StreamPlan, step: Step) -> dict[str, Any]:
    if step.request is None:
        return {
            "method": step.job.method,
            "inputs": [plan.models.index(each.model) for each in step.inputs],
            "parameters": {"scale": step.factor},
        }
    return {
        "method": step.request.method.name,
        "inputs": [plan.models.index(each.model) for each in step.inputs],
        "roles": list(step.request.roles),
        "weights": list(step.request.weights),
        "base": None if step.base is None else plan.models.index(step.base[0]),
        "parameters": dict(step.request.parameters),
    }


def _model(plan: StreamPlan, index: int, inputs: Mapping[Path, str], measured: bool) -> dict[str, Any]:
    model, reference = plan.models[index], plan.recipe.models[index]
    files = model.checkpoint.files
    known, card = card_of(model.found, model.hub)
    return {
        "given": reference.given or reference.source,
        "role": reference.role or None,
        "source": model.found.repo or reference.source,
        "commit": model.found.commit,
        "base": index == plan.recipe.base,
        "adapters": [_adapter(found, model.hub, measured) for found, _ in model.adapters],
        "architecture": next(iter(model.config.get("architectures") or ()), None),
        "hashes": {path.name: inputs[path] for path in files} if measured else NOT_RECORDED,
        **({"card": card} if known else {}),
    }


def _adapter(found: ResolvedSource, hub: HubOptions, measured: bool) -> dict[str, Any]:
    known, card = card_of(found, hub)
    return {
        "source": found.repo or found.given,
        "commit": found.commit,
        "hashes": hash_files([found.folder / ADAPTER_WEIGHTS]) if measured else NOT_RECORDED,
        **({"card": card} if known else {}),
    }


def _diagnostics(plan: StreamPlan, reports: Sequence[TensorReport]) -> list[dict[str, Any]]:
    """Blocks, and the whole, of the tensors that were merged from the same experts."""
    roles = {step.job.name: step.request.roles for step in plan.steps if step.request is not None}
    parties: dict[tuple[str, ...], list[TensorReport]] = {}
    for report in reports:
        parties.setdefault(roles[report.name], []).append(report)
    return [
        {
            "roles": list(party),
            "total": dataclasses.asdict(summarise("whole model", tensors)),
            "blocks": [dataclasses.asdict(block) for block in blocks_of(tensors)],
        }
        for party, tensors in parties.items()
    ]


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
