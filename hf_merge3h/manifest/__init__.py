"""`merge3h.json`: what was merged, from what, how, and what came out; cards and verification are functions of it.

Reads and writes the file, and needs no torch: the engine makes its content, every face of a merge starts here.
"""

from __future__ import annotations

import importlib.resources
import itertools
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SourceError, show
from .shape import departures

if TYPE_CHECKING:
    from ..engine.measures import TensorReport

FILE = "merge3h.json"
#: Raised by one whenever a reader of the last version would misunderstand the file; new keys alone do not raise it.
SCHEMA_VERSION = 1
NOT_RECORDED = "not recorded"
_LISTED = 5  # departures that an error names
_LIMIT = 256_000_000  # bytes; a manifest has one line a tensor


@dataclass(frozen=True)
class Manifest:
    """The content of a merge3h.json, as plain data (see docs/MANIFEST.md).

    Attributes:
        content: what the file holds.
        tensors: reports of the single tensors; in memory only.
    """

    content: Mapping[str, Any]
    tensors: tuple[TensorReport, ...] = ()

    @property
    def outputs(self) -> Any:
        """BLAKE3 of each file beside the manifest, or "not recorded"."""
        return self.content["output"]["hashes"]

    def text(self) -> str:
        """What the file holds, as JSON."""
        return json.dumps(self.content, indent=2, ensure_ascii=False) + "\n"

    def save(self, folder: Path) -> Path:
        """Write the file into a folder."""
        path, aside = Path(folder) / FILE, Path(folder) / f".{FILE}.new"
        aside.write_text(self.text(), encoding="utf-8")
        os.replace(aside, path)
        return path


def load_manifest(place: str | os.PathLike[str]) -> Manifest:
    """Read a manifest, given the file or the folder that holds it.

    Raises:
        SourceError: no such file, not one, or written by a newer version of this package.
    """
    path = Path(place)
    path = path / FILE if path.is_dir() else path
    try:
        if path.stat().st_size > _LIMIT:
            raise SourceError(f"{path}: is no manifest: {path.stat().st_size:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        if isinstance(problem, SourceError):
            raise
        raise SourceError(f"{path}: cannot be read: {problem.strerror or problem}") from None
    except (ValueError, RecursionError) as problem:
        raise SourceError(f"{path}: is no JSON: {show(str(problem))}") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SourceError(f"{path}: is no manifest: schema_version={show(version)}, expected {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        writer = content.get("versions", {}).get("hf-merge3h") if isinstance(content.get("versions"), dict) else None
        # a line that people copy into a shell: nothing but a version may get into it
        known = isinstance(writer, str) and re.fullmatch(r"[0-9][0-9A-Za-z.+-]{0,29}", writer)
        wanted = f"'hf-merge3h>={writer}'" if known else "--upgrade hf-merge3h"
        raise SourceError(
            f"{path}: schema_version={version}, and this version reads up to {SCHEMA_VERSION}; pip install {wanted}"
        )
    wrong = list(itertools.islice(departures(content, schema()), _LISTED))
    if wrong:
        raise SourceError(f"{path}: is no whole manifest: " + "; ".join(wrong))
    return Manifest(content)


def schema() -> dict[str, Any]:
    """The JSON schema of the file, as it ships with the package."""
    text = importlib.resources.files(__name__).joinpath("manifest.schema.json").read_text(encoding="utf-8")
    return json.loads(text)


def plain(value: Any) -> Any:
    """A value in JSON's own types: tuples are lists, numbers that JSON has not are None or text."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
