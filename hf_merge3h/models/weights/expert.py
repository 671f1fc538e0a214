"""A folder of whole weights as an expert of a live base: streamed where names agree, else loaded by transformers."""

from __future__ import annotations

from pathlib import Path

from ...errors import Problems, RequestError
from .checkpoint import Checkpoint
from .compare import compare, drop_aliases
from .loading import load_whole, open_folder
from .module import LiveModule, live_expert
from .ties import is_pretrained


def open_expert_weights(folder: Path, base: LiveModule, label: str) -> Checkpoint | LiveModule:
    """Whole weights from disk, in the base's names on disk.

    Args:
        folder: holds config.json and safetensors.
        base: the live base.
        label: how errors call the expert.

    Returns:
        A Checkpoint, read tensor by tensor, where it has the base's names; a LiveModule that transformers' own loader
        filled where it has others (another head's prefix, legacy names, other ties).

    Raises:
        RequestError: quantised, another architecture, or tensors that differ; all of them listed.
        SourceError: the files cannot be read.
    """
    config, checkpoint = open_folder(folder, label)
    problems = Problems(f"{label} cannot be merged into the base", RequestError)
    drop_aliases(base, checkpoint, problems)
    wanted = set(base.specs()) | set(base.constants())
    same_names = wanted == set(checkpoint.specs()) | set(checkpoint.constants())
    kind = getattr(getattr(base.model, "config", None), "model_type", None)
    loadable = is_pretrained(base.model) and config.get("model_type") == kind and not problems.found
    if same_names or not loadable:
        if is_pretrained(base.model) and config.get("model_type", kind) != kind:
            problems.add(f"{label}: a model of type {config['model_type']!r}, the base is a {kind!r}")
        compare(base, checkpoint, problems, base.vocabulary)
        problems.raise_any()
        return checkpoint
    checkpoint.close()
    expert = live_expert(load_whole(type(base.model), folder, label), base, label)
    compare(base, expert, problems, base.vocabulary)
    problems.raise_any()
    return expert
