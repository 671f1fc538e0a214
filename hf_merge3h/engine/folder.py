"""What makes a folder of weights a model: config, generation config, tokenizer, chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from ..errors import SourceError
from ..models.sources import TOKENIZER_FILES, SourceModel
from ..models.weights.headers import read_json
from ..recipes.chat import AUTO, chat_template
from .depth import set_depths
from .stream_plan import StreamPlan

_TEMPLATE = "chat_template.jinja"
_GENERATION, _TOKENIZER_CONFIG = "generation_config.json", "tokenizer_config.json"
#: The tokenizer once more, in files that do not hold what tokenizer.json was given.
_OTHER_FORMS = (
    "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model",
)  # fmt: skip
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "unk_token_id", "sep_token_id")


def write_side_files(plan: StreamPlan, folder: Path) -> None:
    """Write everything but weights and manifest."""
    config = make_config(plan)
    if config:
        _save(folder / "config.json", config)
    generation = _generation(plan)
    if generation is not None:
        _save(folder / _GENERATION, generation)
    _write_tokenizer(plan, folder)
    template = _template(plan)
    if template is not None:
        (folder / _TEMPLATE).write_text(template, encoding="utf-8")
        _without_template(folder / _TOKENIZER_CONFIG)


def check_side_files(plan: StreamPlan) -> None:
    """Raise a RequestError where what is written beside the weights cannot be had: before the work, not after it."""
    _template(plan)
    make_config(plan)
    _generation(plan)
    for path in tokenizer_model(plan).side_files((_TOKENIZER_CONFIG,)):
        _object(path, tokenizer_model(plan))


def _generation(plan: StreamPlan) -> dict[str, Any] | None:
    """The main model's generation config, with the output's numbers of special tokens."""
    for path in plan.main.side_files((_GENERATION,)):
        return _with_token_ids(plan, _object(path, plan.main), _GENERATION)
    return None


def _object(path: Path, model: SourceModel) -> dict[str, Any]:
    """A file's JSON object."""
    content = read_json(path, model.label)
    if not isinstance(content, dict):
        raise SourceError(f"{model.label}: {path} holds no JSON object")
    return content


def _template(plan: StreamPlan) -> str | None:
    """The chat template that the recipe asks for; None where the tokenizer keeps its own."""
    given = plan.recipe.chat_template
    if not given:
        return None
    if given != AUTO:
        return chat_template(given)
    found = [
        own for model, each in zip(plan.models, plan.recipe.models, strict=True) if each.role and (own := _own(model))
    ]
    # The most common one; of several, the first that the recipe's models have.
    return max(found, key=found.count) if found else None


def _own(model: SourceModel) -> str | None:
    """A model's chat template, from the file of its own or from the tokenizer's config."""
    for path in model.side_files((_TEMPLATE, _TOKENIZER_CONFIG)):
        if path.name == _TEMPLATE:
            return path.read_text(encoding="utf-8", errors="replace")
        template = _object(path, model).get("chat_template")
        if isinstance(template, str):
            return template
    return None


def tokenizer_model(plan: StreamPlan) -> SourceModel:
    """The model whose tokenizer the output gets, or a longer form of it: what the recipe names, else the main model."""
    return plan.main if plan.vocabulary is None else plan.models[plan.vocabulary.source]


def _write_tokenizer(plan: StreamPlan, folder: Path) -> None:
    made = plan.vocabulary is not None and plan.vocabulary.made
    for path in tokenizer_model(plan).side_files(TOKENIZER_FILES):
        if not (made and path.name in _OTHER_FORMS):
            shutil.copyfile(path, folder / path.name)
    if made and plan.vocabulary is not None:
        tokens = plan.vocabulary.tokens
        _save(folder / "tokenizer.json", tokens.content)
        path = folder / _TOKENIZER_CONFIG
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if isinstance(known.get("added_tokens_decoder"), dict):
            entries = {
                str(entry["id"]): {k: v for k, v in entry.items() if k != "id"} for entry in tokens.added.values()
            }
            _save(path, {**known, "added_tokens_decoder": {**entries, **known["added_tokens_decoder"]}})


def make_config(plan: StreamPlan) -> dict[str, Any]:
    """The main model's config, with the output's dtype and number of layers."""
    config = json.loads(json.dumps(plan.main.config))
    if not config:
        return {}
    dtypes = {spec.dtype for spec in plan.specs.values() if spec.dtype.is_floating_point}
    parts = [config, *(config[key] for key in ("text_config",) if isinstance(config.get(key), dict))]
    if len(dtypes) == 1:
        _set_dtype(parts, dtypes.pop())
    if plan.vocabulary is not None:
        for part in parts:
            if "vocab_size" in part:
                part["vocab_size"] = plan.vocabulary.rows
        config = _with_token_ids(plan, config, "config.json")
    set_depths(config, plan.stacks)
    return config


def _with_token_ids(plan: StreamPlan, config: dict[str, Any], file: str) -> dict[str, Any]:
    """A config with the numbers of special tokens that the model with the output's tokenizer has."""
    source = tokenizer_model(plan)
    if source is plan.main:
        return config
    paths = source.side_files((file,))
    theirs = _object(paths[0], source) if paths else {}
    return {**config, **{key: theirs[key] for key in _TOKEN_IDS if key in theirs}}


def _set_dtype(parts: list[dict[str, Any]], dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    for part in parts:
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = name
    if not {"dtype", "torch_dtype"} & parts[0].keys():
        parts[0]["dtype"] = name


def _without_template(path: Path) -> None:
    """Take an embedded chat template out: the file beside it counts."""
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("chat_template", None)
        _save(path, content)


def _save(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
