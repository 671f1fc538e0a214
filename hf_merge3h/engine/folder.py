"""What makes a folder of weights a model: config, generation config, tokenizer, chat template."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import RequestError, bad
from ..models.sources import LAYER_KEYS, TOKENIZER_FILES, SourceModel
from .stream_plan import StreamPlan

_LAYER = re.compile(r"\.(\d+)\.")


def write_side_files(plan: StreamPlan, folder: Path) -> None:
    """Write everything but weights and manifest."""
    config = make_config(plan)
    if config:
        _save(folder / "config.json", config)
    for path in plan.main.side_files(("generation_config.json",)):
        shutil.copyfile(path, folder / path.name)
    for path in tokenizer_model(plan).side_files(TOKENIZER_FILES):
        shutil.copyfile(path, folder / path.name)
    template = plan.recipe.chat_template
    if template and template != "auto":
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        _without_template(folder / "tokenizer_config.json")


def check_side_files(plan: StreamPlan) -> None:
    """Raise a RequestError where the recipe wants a tokenizer or chat template that cannot be had."""
    tokenizer_model(plan)
    template = plan.recipe.chat_template
    if template and template != "auto" and "{{" not in template and "{%" not in template:
        raise bad("chat_template", template, "a Jinja template, or 'auto' to keep the model's")


def tokenizer_model(plan: StreamPlan) -> SourceModel:
    """The model whose tokenizer the output gets: what the recipe names, else the main model.

    Raises:
        RequestError: the recipe wants vocabularies to be brought together, and they differ.
    """
    wanted = plan.recipe.tokenizer
    if wanted is None:
        return plan.main
    source = wanted.get("source")
    if wanted.get("tokens") or wanted.get("pad_to_multiple_of"):
        raise RequestError(
            f"{plan.recipe.label}: tokenizer: single tokens and padding are not supported yet; give each model the "
            "same vocabulary (resize_token_embeddings, with one tokenizer) and leave tokenizer out"
        )
    if source == "union":
        texts = {path.read_bytes() for model in plan.models for path in model.side_files(("tokenizer.json",))}
        if len(texts) > 1:
            raise RequestError(
                f"{plan.recipe.label}: tokenizer_source: the models' tokenizers differ, and their union is not "
                "supported yet; name one model whose vocabulary they all have"
            )
    return plan.models[source] if isinstance(source, int) else plan.main


def make_config(plan: StreamPlan) -> dict[str, Any]:
    """The main model's config, with the output's dtype and number of layers."""
    config = json.loads(json.dumps(plan.main.config))
    if not config:
        return {}
    dtypes = {spec.dtype for spec in plan.specs.values() if spec.dtype.is_floating_point}
    parts = [config, *(config[key] for key in ("text_config",) if isinstance(config.get(key), dict))]
    if len(dtypes) == 1:
        _set_dtype(parts, dtypes.pop())
    if plan.layers is not None and plan.layers != plan.main.layers:
        for part in parts:
            _set_layers(part, plan)
    return config


def _set_dtype(parts: list[dict[str, Any]], dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    for part in parts:
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = name
    if not {"dtype", "torch_dtype"} & parts[0].keys():
        parts[0]["dtype"] = name


def _set_layers(part: dict[str, Any], plan: StreamPlan) -> None:
    """The number of layers, and every list that has one entry for each layer."""
    origins = _origins(plan)
    for key, value in part.items():
        if key in LAYER_KEYS:
            part[key] = plan.layers
        elif isinstance(value, list) and len(value) == plan.main.layers and len(origins) == plan.layers:
            part[key] = [value[origins[layer]] for layer in sorted(origins) if origins[layer] < len(value)]


def _origins(plan: StreamPlan) -> Mapping[int, int]:
    """From which layer of its first input each layer of the output comes."""
    found: dict[int, int] = {}
    for step in plan.steps:
        here, there = _LAYER.search(step.job.name), _LAYER.search(step.inputs[0].name)
        if here and there:
            found.setdefault(int(here.group(1)), int(there.group(1)))
    return found


def _without_template(path: Path) -> None:
    """Take an embedded chat template out: the file beside it counts."""
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("chat_template", None)
        _save(path, content)


def _save(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
