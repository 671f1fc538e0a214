"""A folder of whole weights as an expert of a live base: streamed where names agree, else loaded by transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ...errors import Problems, RequestError, SourceError
from .checkpoint import Checkpoint, read_config
from .compare import compare, drop_aliases
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
    config = read_config(folder, label)
    if config.get("quantization_config"):
        raise RequestError(
            f"{label}: {folder} holds quantised weights (config.json has a quantization_config); merge the weights it "
            "was quantised from, or load it, model.dequantize(), and save that"
        )
    checkpoint = Checkpoint(folder, label)
    packed = [name for name, spec in checkpoint.specs().items() if spec.dtype.itemsize == 1]
    if packed:
        raise RequestError(f"{label}: {folder} holds quantised weights ({packed[0]!r} has 8 bits); merge the original")
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
    return _loaded(folder, base, label, problems)


def _loaded(folder: Path, base: LiveModule, label: str, problems: Problems) -> LiveModule:
    """The folder as a model of the base's class, by transformers' own loader."""
    kind = type(base.model)
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            model, info = kind.from_pretrained(  # type: ignore[attr-defined]
                folder,
                dtype="auto",
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as problem:
        reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise SourceError(f"{label}: {folder} cannot be loaded as a {kind.__name__}: {reason}") from None
    for name in sorted(info["missing_keys"]):
        problems.add(f"{label}: tensor {name!r} of the base is missing")
    for name in sorted(info["unexpected_keys"]):
        problems.add(f"{label}: tensor {name!r} is not one of the base's")
    for name, theirs, ours in sorted(info["mismatched_keys"]):
        problems.add(f"{label}: tensor {name!r} has shape {list(theirs)}, expected {list(ours)}")
    for message in info["error_msgs"]:
        problems.add(f"{label}: {message}")
    if problems.found:
        problems.raise_any()
    expert = live_expert(model, base, label)
    compare(base, expert, problems, base.vocabulary)
    problems.raise_any()
    return expert


@contextmanager
def _quiet() -> Iterator[None]:
    """Transformers without its loading report and progress bar: what matters of them is in our own error."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
