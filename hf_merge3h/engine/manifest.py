"""`merge3h.json`: what was merged, from what, how, and what came out; cards and verification are functions of it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.resources
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SourceError, show
from .measures import TensorReport, blocks_of, summarise
from .stream_plan import Step, StreamPlan

FILE = "merge3h.json"
#: Raised by one whenever a reader of the last version would misunderstand the file; new keys alone do not raise it.
SCHEMA_VERSION = 1
NOT_RECORDED = "not recorded"
_LIMIT = 256_000_000  # bytes; a manifest has one line a tensor


@dataclass(frozen=True)
class Manifest:
    """The content of a merge3h.json, as plain data (see docs/MANIFEST.md).

    Attributes:
        content: what the file holds.
        tensors: reports of the single tensors; in memory only.
    """

    content: Mapping[str, Any]
    tensors: tuple[TensorReport, ...] = ()

    @property
    def outputs(self) -> Any:
        """BLAKE3 of each file of weights, or "not recorded"."""
        return self.content["output"]["hashes"]

    def save(self, folder: Path) -> Path:
        """Write the file into a folder."""
        path = Path(folder) / FILE
        path.write_text(json.dumps(self.content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def load_manifest(place: str | os.PathLike[str]) -> Manifest:
    """Read a manifest, given the file or the folder that holds it.

    Raises:
        SourceError: no such file, not one, or written by a newer version of this package.
    """
    path = Path(place)
    path = path / FILE if path.is_dir() else path
    try:
        if path.stat().st_size > _LIMIT:
            raise SourceError(f"{path}: is no manifest: {path.stat().st_size:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        if isinstance(problem, SourceError):
            raise
        raise SourceError(f"{path}: cannot be read: {problem.strerror or problem}") from None
    except (ValueError, RecursionError) as problem:
        raise SourceError(f"{path}: is no JSON: {show(str(problem))}") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SourceError(f"{path}: is no manifest: schema_version={show(version)}, expected {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        writer = content.get("versions", {}).get("hf-merge3h") if isinstance(content.get("versions"), dict) else None
        wanted = f"'hf-merge3h>={writer}'" if isinstance(writer, str) else "--upgrade hf-merge3h"
        raise SourceError(
            f"{path}: schema_version={version}, and this version reads up to {SCHEMA_VERSION}; pip install {wanted}"
        )
    missing = [key for key in schema()["required"] if key not in content]
    if missing:
        raise SourceError(f"{path}: is no whole manifest: it lacks {', '.join(missing)}")
    return Manifest(content)


def schema() -> dict[str, Any]:
    """The JSON schema of the file, as it ships with the package."""
    text = importlib.resources.files("hf_merge3h.engine").joinpath("manifest.schema.json").read_text(encoding="utf-8")
    return json.loads(text)


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
        outputs: BLAKE3 of the output's files, by name.
        measured: diagnostics and hashes were taken.
        seconds: how long it took.
    """
    recipe = plan.recipe
    content = {
        "schema_version": SCHEMA_VERSION,
        "kind": "weights",
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
    plain = json.loads(json.dumps(_plain(content), allow_nan=False))
    return Manifest(plain, tuple(reports))


def _resolved(plan: StreamPlan) -> list[dict[str, Any]]:
    """The settings that were used, each with the tensors that it was used for."""
    found: dict[str, dict[str, Any]] = {}
    for step in plan.steps:
        entry = _setting(plan, step)
        key = json.dumps(_plain(entry), sort_keys=True)
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
    return {
        "given": reference.given or reference.source,
        "role": reference.role or None,
        "source": model.found.repo or reference.source,
        "commit": model.found.commit,
        "base": index == plan.recipe.base,
        "adapters": [
            {"source": found.repo or found.given, "commit": found.commit} for found, _ in model.adapters
        ],
        "architecture": next(iter(model.config.get("architectures") or ()), None),
        "hashes": {path.name: inputs[path] for path in files} if measured else NOT_RECORDED,
    }  # fmt: skip


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


def _plain(value: Any) -> Any:
    """JSON's own types: tuples are lists, numbers that JSON has not are None or text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
