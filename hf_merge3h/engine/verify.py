"""Whether a merge is what its manifest says: files by their hashes, then the merge itself, made again and compared."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MergeError, RequestError, SourceError, show
from ..manifest import FILE, Manifest, files, load_manifest
from ..models.hub import resolve
from ..models.types import HubOptions
from ..models.weights.headers import ADAPTER_WEIGHTS, weight_files
from ..publishing.facts import facts_of
from ..publishing.recipes import pinned_recipe, recipe_yaml
from ..publishing.remote import local_folder
from ..recipes.read import read_recipe
from .differences import TensorDifference, differences
from .recipes import merge_recipe
from .verification import Outcome, Verification

_WHOLE = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "recipe.yaml", "README.md")
#: Endings of files that a loader may read, and files of ours that may change.
_READ, _OURS = (".json", ".jinja", ".txt", ".model", ".py", ".bin"), (FILE, "README.md", "recipe.yaml")

_ANOTHER = (
    "files and parents are as recorded, and the recipe does not give these weights: it, its seed or a parameter was "
    "edited, or another version of hf-merge3h or torch computes something else"
)


@dataclass
class _Check:
    """One run: what was found so far."""

    folder: Path
    manifest: Manifest
    tolerance: float | None
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    matched: int = 0
    stuck: bool = False  # parents are here, and the recipe cannot be carried out


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
    beside = sorted(each.name for ending in _READ for each in check.folder.glob(f"*{ending}"))
    beside = [name for name in beside if name not in recorded and name not in _OURS]
    if beside:
        check.notes.append(f"no part of the merge, and read by those who load it: {', '.join(beside[:9])}")


def _published_recipe(check: _Check) -> None:
    """A recipe.yaml beside the manifest says the same as it, however it is laid out."""
    path = check.folder / "recipe.yaml"
    if not path.is_file():
        return
    facts = facts_of(check.manifest)
    text, published = path.read_text(encoding="utf-8", errors="replace"), recipe_yaml(facts)
    if text == published:
        return
    try:
        known = (facts.content["recipe"]["given"], read_recipe(published, label="merge3h.json").given)
        if read_recipe(f"{text}\n", label=path.name).given not in known:
            check.findings.append("recipe.yaml: is not the recipe that merge3h.json holds")
    except RequestError as problem:
        check.findings.append(str(problem))


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
            check.notes.append(f"parents are at hand, and it could not be merged again: {problem}")
            check.stuck = True
            return None
        live = content.get("made_by") == "live"
        if not live:
            check.findings += _settings(content, second.content)
        try:
            compared = differences(check.folder, out, check.tolerance)
        except SourceError as problem:
            check.findings.append(str(problem))
            return None
        if live and not all(each.within for each in compared[0]):
            check.findings += _main_settings(content, second.content)
        return compared


def _settings(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    """Where the recipe asks for something else than the manifest says was done."""
    first, second = _plain(recorded), _plain(again)
    for name in sorted(first.keys() | second.keys()):
        if first.get(name) == second.get(name):
            continue
        if name not in first or name not in second:
            yield f"the recipe was edited: {name} is made by {'the recipe' if name in second else 'the record'} only"
            return
        yield from _edited(first[name], second[name], f" (tensor {name})")
        return


def _main_settings(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    """The same of a live merge, whose tensors have other names: the settings that made most of them."""
    first, second = (
        max(settings, key=settings.count)
        for settings in (list(_plain(content).values()) for content in (recorded, again))
    )
    yield from _edited(first, second, "")


def _edited(first: Mapping[str, Any], second: Mapping[str, Any], where: str) -> Iterator[str]:
    for key in sorted(first.keys() | second.keys()):
        if first.get(key) != second.get(key):
            was, now = show(first.get(key)), show(second.get(key))
            yield f"the recipe was edited: {key} is {now} in it, and {was} was merged{where}"
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


def _verdict(check: _Check, compared: tuple[Sequence[TensorDifference], int] | None) -> Verification:
    apart, tensors = compared or ((), 0)
    outcome: Outcome
    if not check.findings and check.matched and not all(each.within for each in apart):
        check.findings.append(_ANOTHER)
    if check.findings or not all(each.within for each in apart):
        outcome = "differs"
    elif compared is not None:
        outcome = "within tolerance" if apart else "bit-exact"
    else:
        outcome = "hashes match" if check.matched and not check.stuck else "could not check"
    return Verification(outcome, tuple(check.findings), tuple(apart), check.matched, tensors, tuple(check.notes))
