"""Merged live models that are saved: the manifest of `model.merge_3h`, written by `save_pretrained`."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blake3 import blake3
from torch import Tensor, nn

from ..errors import OutputError
from ..manifest import NOT_RECORDED, SCHEMA_VERSION, Manifest, plain
from ..manifest.files import hash_file
from ..models.adapters.folder import read_config as read_adapter_config
from ..models.sources import LAYER_KEYS
from ..models.weights.checkpoint import read_config
from ..models.weights.headers import read_header
from ..models.weights.writer import nbytes
from ..publishing.card import write_card
from ..publishing.text import is_hub_id
from ..recipes.mergekit import rules_of
from .finish import finish, hash_files
from .report import MergeReport

#: What `save_pretrained` writes, of models and of adapters. What else lies in the folder is not this save's.
_WEIGHTS = ("model*.safetensors", "*.safetensors.index*.json", "config.json", "generation_config.json")
_ADAPTER = ("adapter_model.safetensors", "adapter_config.json")
_SAMPLE = 64  # entries of each tensor that tell whether it was changed after the merge


def after_saving(
    model: Any,
    folder: Path,
    state: Mapping[str, Tensor] | None,
    adapters: Sequence[str] | None,
    card: str | None = None,
) -> None:
    """Write manifests for what a model has just been saved to; does nothing where no merge made it.

    Args:
        model: a PreTrainedModel or PeftModel.
        folder: that it was saved to.
        state: the weights that were saved, where they were given.
        adapters: names of the saved adapters of a PeftModel; None for whole weights.
        card: what README.md held before the model was saved; None to keep what it holds now.
    """
    facts = vars(model)
    try:
        if adapters is None:
            report = facts.get("merge_report")
            if report is not None and not facts.get("_hf_peft_config_loaded"):
                finish_saved(folder, report, changed=_changed(report, model, state), card=card)
            return
        for name in adapters:
            report = facts.get("merged_adapters", {}).get(name)
            if report is None:
                continue
            place, changed = folder if name == "default" else folder / name, _changed(report, model, state)
            manifest = finish_saved(place, report, changed=changed, card=card if place == folder else None)
            if manifest is not None and place != folder and len(adapters) == 1:
                # PEFT puts its card beside the adapter's folder, and the Hub shows that one.
                write_card(folder, manifest=manifest, place=name, picture=False, old=card)
    except OSError as problem:
        if isinstance(problem, OutputError):
            raise
        raise OutputError(f"{folder}: the manifest cannot be written: {problem.strerror or problem}") from None


def finish_saved(
    folder: Path, report: MergeReport, *, changed: bool | None = False, card: str | None = None
) -> Manifest | None:
    """Write into a folder of saved weights what belongs beside them.

    Args:
        folder: that `save_pretrained` has written.
        report: of the merge that made the weights.
        changed: whether they have been changed since (trained, or converted); None where that is not known.
        card: see `after_saving`.

    Returns:
        The manifest; None where the folder holds no weights of this kind (another process saves them, say).
    """
    manifest = saved_manifest(folder, report, changed)
    if manifest is None:
        return None
    report.saved_in = str(folder.absolute())
    return finish(folder, manifest, card)


def saved_manifest(folder: Path, report: MergeReport, changed: bool | None = False) -> Manifest | None:
    """The manifest of a folder of saved weights, not written yet; see `finish_saved`."""
    patterns = _ADAPTER if report.is_adapter else _WEIGHTS
    paths = {path for pattern in patterns for path in folder.glob(pattern)}
    specs = {
        name: spec
        for path in sorted(paths)
        if path.suffix == ".safetensors"
        for name, spec in read_header(path, path.name).items()
    }
    if not specs:
        return None
    output = {
        "tensors": len(specs),
        "bytes": sum(map(nbytes, specs.values())),
        "dtypes": sorted({str(spec.dtype).removeprefix("torch.") for spec in specs.values()}),
        "layers": _layers(folder),
        "changed": changed,
        "hashes": hash_files(paths),
    }
    if report.is_adapter:
        output["base_model"] = _named_base(folder)
    return Manifest(content_of(report, output), report.tensors)


def fingerprint(model: nn.Module, adapter: str | None = None, state: Mapping[str, Tensor] | None = None) -> str | None:
    """What a model's weights look like from a few entries of each tensor, in any dtype that holds them, on any device.

    Args:
        model: the model; of a PeftModel, with `adapter`, that adapter's tensors count.
        adapter: its name.
        state: the tensors to look at, by the same names, instead of the model's own.

    Returns:
        A hash, or None where the tensors are not at hand (offloaded, sharded).
    """
    digest = blake3()
    if adapter is None:
        parameters: Mapping[str, nn.Parameter] = dict(model.named_parameters())
    else:
        from ..models.adapters.tree import adapter_parameters  # PEFT's, which whole models do without

        parameters = adapter_parameters(model, adapter)
    for name, own in sorted(parameters.items()):
        tensor = own.data if state is None else state.get(name)
        if tensor is None or tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter) or hasattr(own, "ds_id"):
            return None
        flat = tensor.detach().reshape(-1)
        few = flat[:: max(1, len(flat) // _SAMPLE)][:_SAMPLE].cpu().double()
        digest.update(f"{name}{list(tensor.shape)}".encode() + few.numpy().tobytes())
    return digest.hexdigest()


def _changed(report: MergeReport, model: Any, state: Mapping[str, Tensor] | None) -> bool | None:
    now = fingerprint(model, report.output.get("adapter"), state)
    return None if now is None or report.fingerprint is None else now != report.fingerprint


def _layers(folder: Path) -> int | None:
    config = read_config(folder, folder.name)
    text = config.get("text_config")
    parts = (config, text if isinstance(text, dict) else {})
    return next((part[key] for part in parts for key in LAYER_KEYS if isinstance(part.get(key), int)), None)


def _named_base(folder: Path) -> str | None:
    """The Hub id that a saved adapter names as its base; None where it names a folder, or nothing."""
    found = read_adapter_config(folder, folder.name).base_model_name_or_path
    return found if found and is_hub_id(found) and not Path(found).exists() else None


def content_of(report: MergeReport, output: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the manifest of a live merge holds.

    Args:
        report: of the merge.
        output: what was saved; None where nothing was, yet.
    """
    if output is None:
        dtypes = str(report.output.get("dtype")).split(", ")
        output = {
            "tensors": len(report.tensors), "bytes": 0, "dtypes": dtypes, "layers": None, "changed": False,
            "hashes": NOT_RECORDED,
        }  # fmt: skip
    notes = ["the weights were changed after the merge: they are not what it made"] if output["changed"] else []
    content = {
        "schema_version": SCHEMA_VERSION,
        "kind": "adapter" if report.is_adapter else "weights",
        "made_by": "live",
        "method": {
            "name": report.method, "title": report.title, "paper": report.paper, "notice": report.notice,
        },
        "recipe": {"given": as_recipe(report), "label": "merge_3h", "resolved": [_resolved(report)]},
        "warnings": [*report.warnings, *notes],
        "seed": report.seed,
        "models": _models(report),
        "versions": {"hf-merge3h": importlib.metadata.version("hf-merge3h"), **report.versions},
        "device": report.device,
        "seconds": round(report.seconds, 3),
        "output": dict(output),
        "diagnostics": _diagnostics(report),
    }  # fmt: skip
    return json.loads(json.dumps(plain(content), allow_nan=False))


def _diagnostics(report: MergeReport) -> list[dict[str, Any]]:
    if not report.tensors:
        return []
    blocks = [dataclasses.asdict(block) for block in report.blocks]
    return [{"roles": list(report.roles), "total": dataclasses.asdict(report.total), "blocks": blocks}]


def _resolved(report: MergeReport) -> dict[str, Any]:
    return {
        "method": report.method,
        "inputs": list(range(1, len(report.roles) + 1)),
        "roles": list(report.roles),
        "weights": list(report.weights),
        "base": 0,
        "parameters": dict(report.parameters),
        "tensors": [tensor.name for tensor in report.tensors],
    }


def _models(report: MergeReport) -> list[dict[str, Any]]:
    """The base, then the experts; an adapter counts as its base with the adapter on it."""
    base = report.base_origin
    entries = [_model(base, "base", base=True)]
    for role, origin in zip(report.roles, report.origins, strict=True):
        if not origin["adapter"]:
            entries.append(_model(origin, role))
            continue
        known = {"card": origin["card"]} if origin["card_known"] else {}
        adapter = {"source": origin["source"], "commit": origin["commit"], "live": origin["live"], **known}
        adapter["hashes"] = _hashes(origin["files"])
        entries.append({**_model(base, role), "given": origin["given"], "adapters": [adapter]})
    return entries


def _model(origin: Mapping[str, Any], role: str, *, base: bool = False) -> dict[str, Any]:
    entry = {
        "given": origin["given"],
        "role": role,
        "source": origin["source"],
        "commit": origin["commit"],
        "live": origin["live"],
        "base": base,
        "adapters": [],
        "architecture": origin["architecture"],
        "hashes": _hashes(origin["files"]),
    }
    return {**entry, "card": origin["card"]} if origin["card_known"] else entry


def _hashes(files: Iterable[Sequence[Any]]) -> dict[str, str] | str:
    """Of files that are still what they were when they were merged."""
    found = {}
    for name, size, changed in files:
        path = Path(name)
        try:
            state = path.stat()
            if (state.st_size, state.st_mtime_ns) != (size, changed):
                return NOT_RECORDED
            found[path.name] = hash_file(path)
        except OSError:
            return NOT_RECORDED
    return found or NOT_RECORDED


def as_recipe(report: MergeReport) -> dict[str, Any]:
    """The call as a recipe that says the same; what was in memory only is named by where it was loaded from."""
    rules = rules_of(report.method)
    own = {key: value for key, value in report.parameters.items() if isinstance(value, tuple)}
    shared = {key: value for key, value in report.parameters.items() if key not in own and value is not None}
    base = _reference(report.base_origin)
    experts: list[dict[str, Any]] = []
    for place, (weight, origin) in enumerate(zip(report.weights, report.origins, strict=True)):
        reference = _reference(origin) if not origin["adapter"] or report.is_adapter else f"{base}+{_reference(origin)}"
        each = {key: value[place] for key, value in own.items()}
        each = {"weight": weight, **each} if rules.weighted else each
        experts.append({"model": reference, "parameters": each})
    if rules.base in ("first", "model") and not report.is_adapter:
        base = experts[0]["model"]  # whole weights are merged: the model that they go into does not count
    recipe: dict[str, Any] = {"merge_method": report.method, "base_model": base}
    if report.is_adapter:
        recipe["adapters"] = [{"adapter": each["model"], "parameters": each["parameters"]} for each in experts]
    else:
        recipe["models"] = experts
    roles = {role: each["model"] for role, each in zip(report.roles, experts, strict=True)}
    recipe.update(parameters=shared, roles=list(roles) if report.is_adapter else roles, seed=report.seed)
    dtype = str(report.output.get("dtype"))
    recipe.update({} if ", " in dtype else {"out_dtype": dtype})
    return {**recipe, "out": "adapter"} if report.is_adapter else recipe


def _reference(origin: Mapping[str, Any]) -> str:
    return f"{origin['source']}@{origin['commit']}" if origin["commit"] else str(origin["source"])
