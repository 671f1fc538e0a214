"""Whether a merge is what its manifest says: files by their hashes, then the merge itself, made again and compared."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import MergeError, SourceError, show
from ..manifest import Manifest, files, load_manifest
from ..models.hub import resolve
from ..models.types import HubOptions
from ..models.weights.headers import ADAPTER_WEIGHTS, weight_files
from ..publishing.facts import facts_of
from ..publishing.recipes import pinned_recipe, recipe_yaml
from ..publishing.remote import local_folder
from .recipes import merge_recipe

Outcome = Literal["bit-exact", "within tolerance", "hashes match", "differs", "could not check"]

_WHOLE = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "recipe.yaml", "README.md")
_PIECE = 1 << 24  # entries compared at a time
_SHOWN = 10  # tensors and findings that the text names
#: Rounding may flip a few entries by one unit in the last place between machines; what an edit does is far more.
_LEAST, _FLIPS = 1e-5, 0.03


@dataclass(frozen=True)
class TensorDifference:
    """How far one tensor is from what merging again gives.

    Attributes:
        name: of the tensor.
        relative: Frobenius norm of the difference, relative to the tensor's.
        largest: of the differences of single entries.
        within: whether that is as little as rounding on another machine does.
        reason: where it could not be compared: missing, another shape or dtype.
    """

    name: str
    relative: float
    largest: float
    within: bool
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"{self.name}: {self.reason}"
        return f"{self.name}: differs by {self.relative:.3g} of its norm (at most {self.largest:.3g})"


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        outcome: in a word.
        findings: what is not as the manifest says; each names the file, parent or setting.
        differences: tensors that merging again does not give bit by bit.
        files: how many files matched their hashes.
        tensors: how many tensors were compared.
        notes: what was not checked, and why.
    """

    outcome: Outcome
    findings: tuple[str, ...] = ()
    differences: tuple[TensorDifference, ...] = ()
    files: int = 0
    tensors: int = 0
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: it is what it says, as far as could be checked; 1: it is not; 2: nothing could be checked."""
        return {"differs": 1, "could not check": 2}.get(self.outcome, 0)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "exit_code": self.exit_code}

    def __str__(self) -> str:
        lines = [f"{self.outcome}: {self.files} files match their hashes, {self.tensors} tensors were merged again"]
        lines += [f"  - {each}" for each in self.findings[:_SHOWN]]
        worst = sorted(self.differences, key=lambda each: (not each.reason, -each.relative))
        lines += [f"  - {each}" for each in worst[:_SHOWN]]
        hidden = max(0, len(self.findings) - _SHOWN) + max(0, len(worst) - _SHOWN)
        if hidden:
            lines.append(f"  ... and {hidden} more")
        return "\n".join([*lines, *(f"note: {each}" for each in self.notes)])


@dataclass
class _Check:
    """One run: what was found so far."""

    folder: Path
    manifest: Manifest
    tolerance: float | None
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    matched: int = 0


def verify(
    place: str | os.PathLike[str],
    *,
    again: bool = True,
    fetch: bool = False,
    tolerance: float | None = None,
    device: str = "cpu",
    scratch: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Verification:
    """Check a merge: the hashes of its files, and, where its parents are at hand, the merge itself.

    Args:
        place: a folder, or a Hub id.
        again: merge again, and compare tensor by tensor.
        fetch: fetch parents from the Hub; without it only those count that are on this machine.
        tolerance: largest relative difference of a tensor that counts as rounding; None for one by its dtype.
        device: to merge on.
        scratch: where the second merge is written to, and removed from; a temporary folder if left out.
        progress: show a bar.

    Returns:
        What was found.

    Raises:
        SourceError: no merge there, or a manifest that cannot be read.
    """
    folder = local_folder(place, _WHOLE)
    check = _Check(folder, load_manifest(folder), tolerance)
    _files(check)
    _published_recipe(check)
    if not again:
        check.notes.append("not merged again, as asked")
        return _verdict(check, None)
    if check.manifest.content["output"].get("changed"):
        check.notes.append("the weights were changed after the merge, so merging again cannot give them")
        return _verdict(check, None)
    if not _parents(check, HubOptions(local_files_only=not fetch)):
        return _verdict(check, None)
    return _verdict(check, _merge_again(check, device, scratch, fetch, progress))


def _files(check: _Check) -> None:
    recorded = check.manifest.outputs
    if not isinstance(recorded, Mapping):
        check.notes.append("the merge recorded no hashes; only merging again can tell")
        return
    found = list(files.compare(check.folder, recorded))
    check.findings += map(str, found)
    check.matched = len(recorded) - len(found)
    strangers = sorted(each.name for each in check.folder.glob("*.safetensors") if each.name not in recorded)
    check.findings += [f"{name}: is not a file of this merge" for name in strangers]


def _published_recipe(check: _Check) -> None:
    """A recipe.yaml beside the manifest says the same as it."""
    path = check.folder / "recipe.yaml"
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") != recipe_yaml(facts_of(check.manifest)):
        check.findings.append("recipe.yaml: is not the recipe that merge3h.json holds")


def _parents(check: _Check, hub: HubOptions) -> bool:
    """Whether all parents are here and hold what was merged."""
    missing: list[str] = []
    moved: list[str] = []
    for entry in check.manifest.content["models"]:
        for each, kind in [(entry, None), *((adapter, "adapter") for adapter in entry["adapters"])]:
            try:
                moved += _moved(each, kind, hub)
            except MergeError as problem:
                missing.append(f"{each['source']}: {problem}")
    check.findings += list(dict.fromkeys(moved))
    check.notes += [f"not merged again: a parent is not at hand: {each}" for each in dict.fromkeys(missing)]
    return not missing and not moved


def _moved(entry: Mapping[str, Any], kind: Any, hub: HubOptions) -> Iterator[str]:
    source, recorded = _pin(entry), entry.get("hashes")
    found = resolve(source, kind=kind, cache_dir=hub.cache_dir, local_files_only=hub.local_files_only)
    if not isinstance(recorded, Mapping):
        return
    names = [ADAPTER_WEIGHTS] if found.kind == "adapter" else list(weight_files(found.folder, show(source)))
    if set(names) != set(recorded):
        here, merged = (", ".join(sorted(each)[:3]) for each in (names, recorded))
        yield f"{source}: has the weights {here}, and {merged} were merged"
        return
    for each in files.compare(found.folder, recorded):
        yield f"{source}: is not what was merged: {each}"


def _pin(entry: Mapping[str, Any]) -> str:
    return f"{entry['source']}@{entry['commit']}" if entry.get("commit") else str(entry["source"])


def _merge_again(
    check: _Check, device: str, scratch: Any, fetch: bool, progress: bool
) -> tuple[list[TensorDifference], int] | None:
    content = check.manifest.content
    dtypes = content["output"]["dtypes"]
    with tempfile.TemporaryDirectory(dir=scratch, prefix="merge3h-verify-") as place:
        out = Path(place) / "again"
        try:
            second = merge_recipe(
                pinned_recipe(facts_of(check.manifest)),
                out,
                device=device,
                dtype=dtypes[0] if len(dtypes) == 1 else None,
                seed=content["seed"],
                diagnostics=False,
                progress=progress,
                local_files_only=not fetch,
            )
        except MergeError as problem:
            check.notes.append(f"could not be merged again: {problem}")
            return None
        check.findings += _settings(content, second.content)
        try:
            return _compare(check.folder, out, check.tolerance)
        except SourceError as problem:
            check.findings.append(str(problem))
            return None


def _settings(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    """Where the recipe asks for something else than the manifest says was done."""
    if recorded.get("made_by") == "live":
        return
    first, second = _plain(recorded), _plain(again)
    for name in sorted(first.keys() | second.keys()):
        if first.get(name) == second.get(name):
            continue
        if name not in first or name not in second:
            yield f"the recipe was edited: {name} is made by {'the recipe' if name in second else 'the record'} only"
            return
        for key in first[name].keys() | second[name].keys():
            was, now = first[name].get(key), second[name].get(key)
            if was != now:
                yield f"the recipe was edited: {key} is {show(now)} in it, and {show(was)} was merged (tensor {name})"
                return


def _plain(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Tensor -> settings that made it."""
    found = {}
    for entry in content["recipe"]["resolved"]:
        settings = {key: entry.get(key) for key in ("method", "roles", "weights")}
        settings |= {f"parameter {key}": value for key, value in entry["parameters"].items()}
        settings = json.loads(json.dumps(settings))
        found.update(dict.fromkeys(entry["tensors"], settings))
    return found


def _compare(first: Path, second: Path, tolerance: float | None) -> tuple[list[TensorDifference], int]:
    """Tensor by tensor, one pair at a time."""
    found: list[TensorDifference] = []
    with _Tensors(first) as published, _Tensors(second) as merged:
        for name in sorted({*published.names, *merged.names}):
            if name not in published.names or name not in merged.names:
                where = "here" if name in published.names else "in the second merge"
                found.append(TensorDifference(name, math.inf, math.inf, False, f"is only {where}"))
                continue
            each = _difference(name, published.load(name), merged.load(name), tolerance)
            found += [] if each is None else [each]
        return found, len(merged.names)


def _difference(name: str, one: Tensor, two: Tensor, tolerance: float | None) -> TensorDifference | None:
    """None where they are equal bit by bit."""
    if one.shape != two.shape or one.dtype != two.dtype:
        what = f"is {_kind(one)}, and merging again gives {_kind(two)}"
        return TensorDifference(name, math.inf, math.inf, False, what)
    one, two = one.reshape(-1), two.reshape(-1)
    if torch.equal(one.view(torch.uint8), two.view(torch.uint8)):
        return None
    apart = size = largest = 0.0
    for start in range(0, len(one), _PIECE):
        a, b = one[start : start + _PIECE].double(), two[start : start + _PIECE].double()
        apart, size = apart + float((a - b).square().sum()), size + float(b.square().sum())
        largest = max(largest, float((a - b).abs().max()))
    relative = math.sqrt(apart / size) if size else (math.inf if apart else 0.0)
    limit = tolerance
    if limit is None:
        limit = max(_LEAST, _FLIPS * torch.finfo(one.dtype).eps) if one.dtype.is_floating_point else 0.0
    return TensorDifference(name, relative, largest, relative <= limit)  # NaN is never within


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


class _Tensors:
    """All tensors of a folder's safetensors files, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self._files: list[Any] = []
        self.names: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                file = safe_open(path, framework="pt").__enter__()
            except (SafetensorError, OSError) as problem:
                raise SourceError(f"{path}: cannot be read: {problem}") from None
            self._files.append(file)
            self.names.update(dict.fromkeys(file.keys(), file))

    def load(self, name: str) -> Tensor:
        """One tensor."""
        return self.names[name].get_tensor(name)

    def __enter__(self) -> _Tensors:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.__exit__(None, None, None)


def _verdict(check: _Check, compared: tuple[Sequence[TensorDifference], int] | None) -> Verification:
    differences, tensors = compared or ((), 0)
    outcome: Outcome
    if check.findings or not all(each.within for each in differences):
        outcome = "differs"
    elif compared is not None:
        outcome = "within tolerance" if differences else "bit-exact"
    else:
        outcome = "hashes match" if check.matched else "could not check"
    return Verification(outcome, tuple(check.findings), tuple(differences), check.matched, tensors, tuple(check.notes))
