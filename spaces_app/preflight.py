"""Before a merge: would it work, what would it take, and what is to be done where it would not. Reads no weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import places
from form import LABEL, Problem, problems_of, read
from places import Source, size

import hf_merge3h
from hf_merge3h import MergeError

_MARGIN = 1.3  # memory beyond the plan's, for all that is not counted
_RATE = 40e6  # bytes a second, a guess at how fast the Hub sends
_last: list[Any] = []  # the last plan, whose adapters the next one need not read again
_KEYS = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")


@dataclass(frozen=True)
class Preflight:
    """What a merge would take.

    Attributes:
        problems: what keeps it from being carried out, each with its remedy.
        notes: what a careful user should know.
        facts: what there is to say, in order.
        data: the recipe, as given; placed, with folders in place of shipped names.
        seconds: of the merge itself, a guess.
    """

    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    placed: dict[str, Any] = field(default_factory=dict, repr=False)
    seconds: float = 0.0
    plan: Any = field(default=None, repr=False)


def preflight(text: str, room: Path | None = None) -> Preflight:
    """Check a recipe against its models, this machine and its limits.

    Args:
        text: the recipe.
        room: the folder that the result would be written into, to see whether it fits.
    """
    recipe, problems = read(text)
    if recipe is None:
        return Preflight(tuple(problems))
    if "{" in str(recipe.given.get("chat_template", "")):  # a program: its loops could keep all others from answers
        line = next((n for n, each in enumerate(text.splitlines(), 1) if each.startswith("chat_template")), None)
        told = "leave it out to keep the base's, or merge on a machine of your own"
        problems.append(Problem(line, "chat_template: a template of one's own is not run here", told))
    names = [name for model in recipe.models for name in (model.source, *model.adapters)]
    sources, found = places.look(names)
    problems += found
    data, notes, facts = dict(recipe.given), list(recipe.warnings), _facts(sources)
    if not problems:
        problems += _fit_together(sources, recipe)
        notes += _bases(sources) + _licences(sources, facts)
    if problems:
        return Preflight(tuple(problems), tuple(notes), facts, data)
    placed = places.placed(data)
    plan, problems = _plan(placed, sources)
    if plan is not None:
        told = hf_merge3h.plan_facts(plan)
        memory, seconds, written = told["peak_memory"], told.get("seconds", 1.0), told["bytes_written"]
        facts["weights to read"] = size(told["bytes_read"])
        facts["tensors"] = str(told["tensors"]) + (
            f", in {told['layers']} layers" if told.get("layers") else " changed"
        )
    else:
        total = sum(source.weights for source in sources)
        base = next((source.weights for source in sources if source.kind == "model"), total)
        memory, seconds, written = int(0.2 * base) + (1 << 28), round(2 * total / 1.2e9, 1), base
    download = sum(source.weights for source in sources if source.commit and plan is None)
    facts |= {
        "peak memory": f"about {size(memory)} of {size(free_memory())} free",
        "time": f"about {max(1, round(seconds))} s"
        + (f", and {download / _RATE:.0f} s of download" if download else ""),
        "size of the result": f"about {size(written)}",
    }
    problems += _room(memory, written + download, room)
    return Preflight(tuple(problems), tuple(notes), facts, data, placed, seconds, plan)


def _facts(sources: Sequence[Source]) -> dict[str, str]:
    models = [source for source in sources if source.kind == "model"]
    found = {}
    if models:
        config = models[-1].config
        kinds = ", ".join(config.get("architectures") or ()) or "not stated"
        found["architecture"] = (
            f"{kinds}, {config.get('num_hidden_layers', '?')} layers of {config.get('hidden_size', '?')}"
        )
        found["vocabulary"] = f"{config.get('vocab_size', '?')} tokens"
    if sources:
        found["revisions"] = "; ".join(
            f"{source.name} {source.commit[:12] if source.commit else '(comes with the package)'}" for source in sources
        )
        found["weights to read"] = size(sum(source.weights for source in sources))
    return found


def _fit_together(sources: Sequence[Source], recipe: Any) -> list[Problem]:
    """Whole models of one merge must have one architecture; the first of them that differs is named."""
    models = [source for source in sources if source.kind == "model"]
    problems = []
    for other in models[1:]:
        differing = [
            f"{key} {models[0].config.get(key)} and {other.config.get(key)}"
            for key in _KEYS
            if models[0].config.get(key) != other.config.get(key)
        ]
        if differing:
            problems.append(
                Problem(
                    None,
                    f"{models[0].name} and {other.name} do not fit together: {', '.join(differing)}",
                    "merge models that were trained from the same base",
                )
            )
    misplaced = {adapter for model in recipe.models for adapter in model.adapters}
    for source in sources:
        if source.kind == "adapter" and source.name not in misplaced:
            problems.append(
                Problem(None, f"{source.name} is an adapter", "list it under `adapters`, with its base_model")
            )
        if source.kind == "model" and source.name in misplaced:
            problems.append(Problem(None, f"{source.name} is a whole model", "list it under `models`, not `adapters`"))
    return problems


def _bases(sources: Sequence[Source]) -> list[str]:
    base = next((source.name for source in sources if source.kind == "model"), "")
    notes = []
    for source in sources:
        said = source.config.get("base_model_name_or_path") if source.kind == "adapter" else None
        if isinstance(said, str) and "/" in said and said != base.partition("@")[0] and not Path(said).is_absolute():
            notes.append(f"{source.name} says that it was trained on {said[:100]}, not on {base}")
    return notes


def _licences(sources: Sequence[Source], facts: dict[str, str]) -> list[str]:
    """The verdict over all licences, as a fact; what a person has to look at, as notes."""
    verdict = hf_merge3h.license_verdict(source.card or None for source in sources)
    suggested = f"; the merge may be {verdict.license}" if verdict.status == "compatible" and verdict.license else ""
    facts["licences"] = f"{', '.join(verdict.licenses)}: {verdict.status}{suggested} (not legal advice)"
    conflicts = [
        f"Licences conflict, so it cannot be published from here. {conflict}" for conflict in verdict.conflicts
    ]
    return conflicts + [f"Licences: {question}" for question in verdict.open_questions]


def _plan(placed: dict[str, Any], sources: Sequence[Source]) -> tuple[Any, list[Problem]]:
    """The engine's own plan, where all models lie on this machine: it reads headers, and finds what does not fit."""
    if any(source.commit for source in sources):
        return None, []
    try:
        with places.BUILDING:
            recipe = hf_merge3h.read_recipe(placed, LABEL)
            _last[:] = [hf_merge3h.plan_recipe(recipe, reuse=_last[0] if _last else None)]
            return _last[0], []
    except MergeError as error:
        return None, problems_of(Exception(places.named(str(error))))


def _room(memory: int, disk: int, room: Path | None) -> list[Problem]:
    problems = []
    if memory * _MARGIN > free_memory():
        problems.append(
            Problem(
                None,
                f"it needs about {size(memory)} of memory, and {size(free_memory())} are free",
                "try again when others are done, merge adapters instead of whole models, or run the recipe elsewhere",
            )
        )
    free = shutil.disk_usage(room or Path.cwd()).free
    if disk * _MARGIN > free:
        problems.append(
            Problem(None, f"it needs {size(disk)} of disk, and {size(free)} are free", "forget a merge of this visit")
        )
    return problems


def free_memory() -> int:
    """Bytes of memory that may still be used: what the machine has, or what its container may take."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit != "max":
            found.append(max(0, int(limit) - used))
    except (OSError, ValueError):
        pass
    if "SPACE_MEMORY_GB" in os.environ:
        found.append(int(float(os.environ["SPACE_MEMORY_GB"]) * 1e9))
    return min(found) if found else 16 * 10**9
