"""From whatever a user names as a model to one that answers: Hub ids, folders, live models, adapters on a base."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SourceError, bad, show

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Opened:
    """A model that is ready to be asked.

    Attributes:
        model: in eval mode.
        tokenizer: padding on the left.
        chat: whether the tokenizer has a chat template.
        identities: hash over a sample of the weights, of each model that is asked.
        adapters: of a PeftModel that is asked with several in one batch (None: what is under them); else none.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: bool
    identities: tuple[str, ...]
    adapters: tuple[str | None, ...] = ()

    @property
    def count(self) -> int:
        """How many models are asked: a batch holds all rows of the first, then all of the second, and so on."""
        return len(self.identities)

    def named(self, rows: int) -> dict[str, Any]:
        """What a batch with so many rows of each model is called with beside its tokens."""
        names = [name or "__base__" for name in self.adapters for _ in range(rows)]
        return {"adapter_names": names} if names else {}


def folder_of(source: Any) -> Path | None:
    """The local folder that a model was named by, or its adapter's; None where there is none."""
    if isinstance(source, tuple) and len(source) == 2:
        if source[1] in getattr(source[0], "peft_config", ()):
            return None  # the name of a loaded adapter
        source = source[1]
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        return path if path.is_dir() else None
    return None


def check_source(name: str, source: Any) -> None:
    """Refuse what can be no model, before any model is loaded.

    Raises:
        RequestError: names the model and what was given.
    """
    parts = source if isinstance(source, tuple) else (source,)
    if len(parts) not in (1, 2):
        raise bad(f"models[{name!r}]", source, "a model, or (model, adapter)")
    for part in parts:
        if part is None and hasattr(parts[0], "peft_config"):
            continue  # what is under the adapters
        live = hasattr(part, "generate") and hasattr(part, "config")
        if callable(part) and not live and len(parts) == 1:
            continue
        if not live and not isinstance(part, (str, os.PathLike)):
            wanted = "a Hub id, a folder, a live model, (model, adapter) or a function"
            raise bad(f"models[{name!r}]", type(part).__name__, wanted)
        if isinstance(part, os.PathLike) or (
            isinstance(part, str) and (part.startswith(("/", ".", "~")) or "\\" in part)
        ):
            path = Path(part).expanduser()
            if not path.is_dir():
                raise SourceError(f"models[{name!r}]={show(str(part))}: no such folder")
            if not any((path / one).is_file() for one in ("config.json", "adapter_config.json")):
                raise SourceError(
                    f"models[{name!r}]={show(str(part))}: holds neither config.json nor adapter_config.json"
                )


@contextlib.contextmanager
def opened(
    name: str, source: Any, *, base: Any = None, tokenizer: Any = None, device: str = "auto", dtype: Any = "auto"
) -> Iterator[Opened]:
    """A model for as long as the block lasts; live ones are given back as they were.

    Args:
        name: what it is called.
        source: a Hub id, a folder (of a model or an adapter), a live model, or (model, adapter); of a PeftModel the
            name of a loaded adapter, or None for what is under them. Or a function that gives one of these.
        base: what an adapter's folder is put on; what the adapter records where it is None.
        tokenizer: of a live model that does not say where it was loaded from.
        device: auto, cpu, cuda, mps.
        dtype: "auto": float32 on CPUs, the checkpoint's own elsewhere.

    Raises:
        SourceError: it cannot be read.
    """
    import torch

    place = _device(device)
    model, home = _load(name, source, base, place, dtype)
    tokens = prepared_tokenizer(name, home, tokenizer)
    was_training = model.training
    model.eval()
    try:
        yield Opened(model, tokens, bool(getattr(tokens, "chat_template", None)), tuple(fingerprints(model)))
    finally:
        model.train(was_training)
        del model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def prepared_tokenizer(name: str, homes: list[Any], given: Any) -> PreTrainedTokenizerBase:
    """A copy of a tokenizer that pads on the left: the one that is given, or else the first that some places have."""
    tokens = copy.deepcopy(given if given is not None else _tokenizer(name, homes))
    tokens.padding_side = "left"
    if tokens.pad_token_id is None:
        tokens.pad_token = tokens.eos_token if tokens.eos_token is not None else tokens.convert_ids_to_tokens(0)
    return tokens


def _device(device: str) -> str:
    import torch

    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _load(name: str, source: Any, base: Any, device: str, dtype: Any) -> tuple[Any, list[Any]]:
    """The model, and where its tokenizer may be found, best place first."""
    source = _made(source)
    if isinstance(source, tuple) and len(source) == 2:
        return _adapted(name, source[0], source[1], device, dtype)
    if hasattr(source, "generate"):
        return source, [getattr(source, "name_or_path", None), getattr(source.config, "_name_or_path", None)]
    folder = folder_of(source)
    if folder is not None and (folder / "adapter_config.json").is_file():
        under = _made(base) if base is not None and not isinstance(base, tuple) else _recorded(folder)
        return _adapted(name, under, folder, device, dtype)
    return _pretrained(name, source, device, dtype), [source]


def _made(source: Any) -> Any:
    """What a function gives; all else is itself."""
    return source() if callable(source) and not hasattr(source, "generate") else source


def _pretrained(name: str, source: Any, device: str, dtype: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    chosen = (torch.float32 if device == "cpu" else "auto") if dtype == "auto" else dtype
    if isinstance(chosen, str) and chosen != "auto":
        chosen = getattr(torch, chosen, None)
        if not isinstance(chosen, torch.dtype):
            raise bad("dtype", dtype, "auto, float32, bfloat16 or float16")
    given, _, revision = str(source).partition("@") if not Path(str(source)).exists() else (str(source), "", "")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            given, dtype=chosen, revision=revision or None, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # transformers and safetensors raise what their many loaders raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"models[{name!r}]={show(str(source))}: cannot be loaded: {show(said)}") from None
    moved: Any = model
    return moved.to(device)


def _adapted(name: str, base: Any, adapter: Any, device: str, dtype: Any) -> tuple[Any, list[Any]]:
    """The base with an adapter's change added to a copy of its weights, which is quicker to ask than factors are."""
    from peft import PeftModel

    live = hasattr(base, "generate")
    homes = [adapter, base if not live else getattr(base, "name_or_path", None)]
    if live and isinstance(base, PeftModel):
        if adapter is None:
            bare: Any = copy.deepcopy(base)
            return bare.unload(), homes
        if adapter not in base.peft_config:
            raise bad(f"models[{name!r}]", adapter, f"a loaded adapter: {', '.join(base.peft_config)}")
        copied: Any = copy.deepcopy(base)
        copied.set_adapter(adapter)
        return copied.merge_and_unload(), homes
    model = copy.deepcopy(base) if live else _pretrained(name, base, device, dtype)
    try:
        with warnings.catch_warnings():
            # PEFT 0.21.2 asks transformers 5.23 by an old name: nothing that a user could mend
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            with_adapter = PeftModel.from_pretrained(model, str(adapter))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"models[{name!r}]={show(str(adapter))}: no adapter of this base: {show(said)}") from None
    if getattr(model, "is_quantized", False):
        return with_adapter, homes
    return with_adapter.merge_and_unload(), homes


def _recorded(folder: Path) -> str:
    from peft import PeftConfig

    recorded = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    if not recorded:
        raise SourceError(f"{folder}: records no base; give the base as a model named `base`, or (model, adapter)")
    return str(recorded)


def _tokenizer(name: str, homes: list[Any]) -> Any:
    from transformers import AutoTokenizer

    for home in homes:
        if home is None or hasattr(home, "generate"):
            continue
        given, _, revision = str(home).partition("@") if not Path(str(home)).exists() else (str(home), "", "")
        try:
            return AutoTokenizer.from_pretrained(given, revision=revision or None, trust_remote_code=False)
        except Exception:  # tokenizers raise all sorts; the next place may have one
            continue
    raise SourceError(f"models[{name!r}]: no tokenizer found for it; pass tokenizer=")


def fingerprints(model: Any, adapters: Sequence[str | None] = ()) -> list[str]:
    """Hashes over names, shapes and up to 4096 numbers of each tensor: another merge gives another one.

    One of the model, or one for each of some adapters of a PeftModel: of the base and of that adapter alone.
    """
    state = sorted(model.state_dict().items())
    if not adapters:
        return [_digest(hashlib.sha256(), state).hexdigest()[:16]]
    owners = {key: _adapter_of(key) for key, _ in state}
    base = _digest(hashlib.sha256(), [(key, tensor) for key, tensor in state if owners[key] is None])
    return [
        _digest(base.copy(), [(key, tensor) for key, tensor in state if name is not None and owners[key] == name])
        .hexdigest()[:16]
        for name in adapters
    ]  # fmt: skip


def _adapter_of(key: str) -> str | None:
    """Whose a tensor is, `...lora_A.NAME.weight` or `...lora_embedding_A.NAME`; None: the base's."""
    parts = key.split(".")
    place = next((place for place, part in enumerate(parts[:-1]) if part.startswith("lora_")), None)
    return None if place is None else parts[place + 1]


def _digest(digest: Any, state: Sequence[tuple[str, Any]]) -> Any:
    import torch

    with torch.no_grad():
        for name, tensor in state:
            flat = tensor.detach().reshape(-1)
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            step = max(1, flat.numel() // 4096)
            digest.update(flat[::step].to("cpu", torch.float32).numpy().tobytes())
    return digest
