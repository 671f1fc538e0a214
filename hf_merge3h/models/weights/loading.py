"""Whole models by transformers' own loader, with everything that it only warns of as one error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import Problems, RequestError, SourceError, one_line_of
from ..lock import PATCHED_TORCH
from .checkpoint import Checkpoint, read_config

if TYPE_CHECKING:
    from ..remote import Remote


def check_folder(folder: Path, label: str) -> dict[str, Any]:
    """The config of a folder that `open_folder` takes; nothing stays open."""
    config, checkpoint = open_folder(folder, label)
    checkpoint.close()
    return config


def open_folder(folder: Path, label: str, remote: Remote | None = None) -> tuple[dict[str, Any], Checkpoint]:
    """Config and weights of a folder whose weights are whole numbers in whole files.

    Args:
        folder, label, remote: as `Checkpoint` takes them.

    Raises:
        RequestError: they are quantised.
        SourceError: a file is missing, broken or a pickle.
    """
    config = read_config(folder, label)
    if config.get("quantization_config"):
        raise RequestError(
            f"{label}: {folder} holds quantised weights (config.json has a quantization_config); merge the weights it "
            "was quantised from, or load it, model.dequantize(), and save that"
        )
    checkpoint = Checkpoint(folder, label, remote)
    packed = [name for name, spec in checkpoint.specs().items() if spec.dtype.itemsize == 1]
    if packed:
        raise RequestError(f"{label}: {folder} holds quantised weights ({packed[0]!r} has 8 bits); merge the original")
    return config, checkpoint


def load_whole(kind: Any, folder: Path, label: str) -> Any:
    """A model of a class of transformers from a folder of safetensors; every tensor must be there and fit.

    Raises:
        RequestError: lists missing, unexpected and mismatched tensors.
        SourceError: transformers cannot load it.
    """
    from huggingface_hub.errors import StrictDataclassError

    problems = Problems(f"{label} does not fit a {kind.__name__}", RequestError)
    known = (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, AttributeError, StrictDataclassError)
    try:
        with PATCHED_TORCH, _quiet(), torch.random.fork_rng(devices=[]):
            model, info = kind.from_pretrained(
                folder,
                dtype="auto",
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except known as problem:
        raise SourceError(f"{label}: {folder} cannot be loaded as a {kind.__name__}: {one_line_of(problem)}") from None
    for name in sorted(info["missing_keys"]):
        problems.add(f"{label}: tensor {name!r} of the base is missing")
    for name in sorted(info["unexpected_keys"]):
        problems.add(f"{label}: tensor {name!r} is not one of the base's")
    for name, theirs, ours in sorted(info["mismatched_keys"]):
        problems.add(f"{label}: tensor {name!r} has shape {list(theirs)}, expected {list(ours)}")
    for message in info["error_msgs"]:
        problems.add(f"{label}: {message}")
    problems.raise_any()
    return model


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
