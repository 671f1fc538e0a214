"""Headers of safetensors files, and which files of a folder hold a model's weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from ...errors import Problems, SourceError, show
from ..types import TensorSpec

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
#: What the format calls each dtype.
SAFE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in its file: `start` and `end` are bytes from the file's beginning."""

    spec: TensorSpec
    start: int
    end: int


def read_header(path: Path, label: str) -> dict[str, TensorSpec]:
    """Names, shapes and dtypes of a safetensors file; see `read_places`."""
    return {name: place.spec for name, place in read_places(path, label).items()}


def read_places(path: Path, label: str) -> dict[str, Place]:
    """Names, shapes, dtypes and places of a safetensors file's tensors; checks that its sizes are true.

    Raises:
        SourceError: missing, truncated, corrupted, or a header that contradicts itself or the file.
    """

    shown = f"{label}: {path}"

    def broken(reason: str) -> SourceError:
        return _broken(shown, reason)

    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            if first == b"version ":  # the text that stands for a large file where git-lfs has not fetched it
                raise broken("a Git LFS pointer lies in its place (git lfs pull fetches it)")
            length = int.from_bytes(first, "little")
            if size < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise broken(
                    f"{size} bytes, of which the header alone takes {length + 8}" if size >= 8 else "too short"
                )
            text = file.read(length)
    except OSError as problem:
        if isinstance(problem, SourceError):
            raise
        raise SourceError(f"{label}: {path} cannot be read: {problem.strerror or problem}") from None
    try:
        header = json.loads(text, object_pairs_hook=_without_doubles)
    except ValueError as problem:
        raise broken(f"its header is no JSON ({show(str(problem))})") from None
    except RecursionError:
        raise broken("its header is nested too deeply") from None
    return check_places(header, 8 + length, size, shown)


def _broken(shown: str, reason: str) -> SourceError:
    return SourceError(f"{shown} is no whole safetensors file: {reason}; download or save it again")


def check_places(header: Any, first: int, size: int, shown: str) -> dict[str, Place]:
    """The places that a header tells; checks that they fill the file.

    Args:
        header: the parsed JSON.
        first: the byte behind it, where tensors begin.
        size: of the file, in bytes.
        shown: how an error calls the file.
    """
    places: dict[str, Place] = {}
    for name, entry in header.items() if isinstance(header, dict) else [("header", header)]:
        if name == "__metadata__":
            continue
        try:
            dtype, shape, (start, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
            fits = end - start == math.prod(shape) * dtype.itemsize and min((*shape, start)) >= 0
            whole = all(type(each) is int for each in (*shape, start, end))
        except (TypeError, KeyError, ValueError):
            raise _broken(shown, f"tensor {show(name)} has the entry {show(entry)}") from None
        if not (whole and fits):
            raise _broken(shown, f"tensor {show(name)} lies about its size: {show(entry)}")
        places[name] = Place(TensorSpec(shape, dtype), first + start, first + end)
    reached = first
    for start, end in sorted((place.start, place.end) for place in places.values()):
        if start != reached:
            raise _broken(shown, "tensors overlap or leave gaps")
        reached = end
    if reached != size:
        raise _broken(shown, f"its header promises {reached - first} bytes of tensors, and {size - first} are there")
    return places


def read_json(path: Path, label: str) -> Any:
    """A JSON file, or a SourceError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise SourceError(f"{label}: {path} cannot be read: {problem.strerror or problem}") from None
    except (ValueError, RecursionError) as problem:
        raise SourceError(f"{label}: {path} is no JSON: {show(str(problem))}; download or save it again") from None


def read_index(path: Path, label: str) -> dict[str, list[str]]:
    """The shards of an index, and the tensors that it says are in each.

    Raises:
        SourceError: not an index, or one that names files outside of its folder.
    """
    content = read_json(path, label)
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(each, str) for each in table.values()):
        raise SourceError(f"{label}: {path} is no index: expected a weight_map from tensors to files")
    shards: dict[str, list[str]] = {}
    for name, file in table.items():
        shards.setdefault(file, []).append(name)
    for file in shards:
        parts = PurePosixPath(file).parts
        # Not `resolve`: in the Hub's cache every file is a link that leads out of its folder.
        if "\\" in file or "\0" in file or ".." in parts or file.startswith("/") or PureWindowsPath(file).drive:
            raise SourceError(f"{label}: {path} names the file {show(file)}, which is outside of its folder")
    return shards


def weight_files(folder: Path, label: str) -> dict[str, list[str] | None]:
    """The safetensors files that hold a folder's model: file -> the tensors that an index says are in it, if any.

    Raises:
        SourceError: nothing there that can be read, with what to do about it.
    """
    if (folder / WEIGHTS).is_file():  # transformers prefers it to an index, too
        return {WEIGHTS: None}
    if (folder / INDEX).is_file():
        shards = read_index(folder / INDEX, label)
        missing = [file for file in shards if not (folder / file).is_file()]
        if missing:
            problems = Problems(f"{label}: {folder} is not whole, {INDEX} names files that are missing", SourceError)
            for file in missing:
                problems.add(file)
            problems.raise_any()
        return dict(shards)
    try:
        names = sorted(each.name for each in folder.iterdir() if each.is_file())
    except OSError as problem:
        raise SourceError(f"{label}: {folder} cannot be read: {problem.strerror or problem}") from None
    others = [name for name in names if name.endswith(".safetensors") and name != ADAPTER_WEIGHTS]
    if len(others) == 1:
        return {others[0]: None}
    raise SourceError(f"{label}: {why_no_weights(str(folder), names)}")


def why_no_weights(where: str, names: Iterable[str]) -> str:
    """Why no weights can be read from a folder or repository, told from the names of its files."""
    names = sorted(names)
    tensors = [name for name in names if name.endswith(".safetensors") and name != ADAPTER_WEIGHTS]
    pickles = [name for name in names if re.search(r"\.(bin|pt|pth|ckpt)$", name) and not name.startswith("training_")]
    ggufs = [name for name in names if name.endswith(".gguf")]
    if ADAPTER_CONFIG in names:
        return f"{where} is an adapter and no whole model; give it where an adapter is expected"
    nested = folders_with_weights(names)
    if nested and not any("/" not in name for name in (*tensors, *pickles, *ggufs)):
        return f"{where} holds no weights itself{nested}"
    if tensors:
        return (
            f"{where} holds {', '.join(map(show, tensors[:3]))}{', ...' if len(tensors) > 3 else ''} but no "
            f"{WEIGHTS} and no {INDEX}, so which of them make the model is not known; rename the one or write the index"
        )
    if pickles:
        return (
            f"{where} holds pickled weights only ({show(pickles[0])}), which can run code when read; convert "
            f"them where you trust them: {conversion_line(where)}"
        )
    if ggufs:
        return (
            f"{where} holds GGUF weights only ({show(ggufs[0])}), which are quantised; use the original "
            f"weights, or unpack them: AutoModelForCausalLM.from_pretrained({where!r}, gguf_file={ggufs[0]!r})"
            ".save_pretrained('FOLDER')"
        )
    return f"{where} holds no weights: expected {WEIGHTS}, or {INDEX} and its shards"


def weight_folders(names: Iterable[str]) -> list[str]:
    """The folders among these names of files that hold weights or an adapter, sorted.

    >>> weight_folders(["README.md", "honest/adapter_config.json", "honest/adapter_model.safetensors"])
    ['honest']
    """
    ends = (ADAPTER_CONFIG, WEIGHTS, INDEX)
    return sorted({path for path, _, name in (each.rpartition("/") for each in names) if path and name in ends})


def by_subfolder(folder: str) -> str:
    """How weights in a folder of a repository are asked for.

    >>> by_subfolder("honest")
    "subfolder='honest'"
    """
    return f"subfolder={show(folder)}"


def folders_with_weights(names: Iterable[str], folder: str = "") -> str:
    """What to do about weights that lie in folders below, for the end of a sentence; empty where there are none.

    Args:
        names: of files.
        folder: the local folder that they are in; of a repository, the folder below is an argument of its own.

    >>> folders_with_weights(["README.md", "honest/adapter_config.json", "honest/adapter_model.safetensors"])
    "; there are weights in 'honest' below it: give subfolder='honest'"
    """
    found = weight_folders(names)
    if not found:
        return ""
    shown = ", ".join(map(show, found[:5])) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    remedy = show(f"{folder}/{found[0]}") if folder else by_subfolder(found[0])
    return f"; there are weights in {shown} below it: give {remedy}"


def conversion_line(where: str) -> str:
    """The command that turns pickled weights into safetensors."""
    code = (
        "from transformers import AutoConfig as C; import transformers as t; "
        f"f={where!r}; getattr(t, C.from_pretrained(f).architectures[0])"
        ".from_pretrained(f, use_safetensors=False).save_pretrained('CONVERTED')"
    )
    return f'python -c "{code}"'


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found
