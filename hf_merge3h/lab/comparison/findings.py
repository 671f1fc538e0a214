"""What the steps that are done say: figures, paired differences, recovery, conflicts and costs."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...evaluation import compare, statistics
from ...evaluation.store import write_aside
from ...evaluation.suite import H
from .boards import Items, board_of, side_by_side
from .records import Records

FINDINGS, REPORT = "findings.json", "report.md"
BASE = "base"


def expert(h: str) -> str:
    """What the expert of an H is called in tables."""
    return f"{h} expert"


@dataclass(frozen=True)
class Arena:
    """Models that are compared with each other: a base, its experts, merges of them, mixtures.

    Attributes:
        place: paradigm, kind, and for a chain what of it is merged.
        split: where it was measured.
        models: label -> values.
        facts: label -> what the step says besides.
        datasets: what the suite says of each data set.
    """

    place: str
    split: str
    models: Mapping[str, Items]
    facts: Mapping[str, Mapping[str, Any]]
    datasets: Mapping[str, Mapping[str, Any]]

    @functools.cached_property
    def board(self) -> compare.Board:
        """Values of each H, on the items that all models have; of none, where no data set is part of an H's mean."""
        if not any(fact["averaged"] for fact in self.datasets.values()):
            return compare.Board(tuple(self.models), {}, {}, {})
        return board_of(self.models, self.datasets)

    @property
    def merges(self) -> list[str]:
        """Labels of what is neither base nor expert."""
        return [name for name in self.models if name != BASE and name not in map(expert, H)]

    def figures(self, model: str) -> dict[str, Any]:
        """Data set -> value with interval."""
        return {
            name: compare.figure(values, "lab", name).plain() for name, values in self.models[model].items() if values
        }

    def gain(self, h: str) -> dict[str, Any] | None:
        """What an expert gains over the base on its own H."""
        return self.board.change(h, expert(h), BASE)

    def defined(self, h: str) -> bool:
        """Whether recovery means something: the expert is better than the base beyond its interval."""
        gain = self.gain(h)
        return gain is not None and gain["low"] is not None and gain["low"] > 0

    def recovery(self, model: str) -> dict[str, Any]:
        """(merged - base) / (expert - base) of each H where that is defined, and the least of them, with intervals."""
        return self._recoveries[model]

    @functools.cached_property
    def _recoveries(self) -> dict[str, dict[str, Any]]:
        return {name: self._recovered(name) for name in self.merges}

    def _recovered(self, model: str) -> dict[str, Any]:
        board, replicates, points = self.board, [], []
        found: dict[str, dict[str, Any] | None] = {}
        for h in board.datasets:
            if not self.defined(h):
                found[h] = None
                continue
            zero, one, own = (board.of(h, name) for name in (BASE, expert(h), model))
            with np.errstate(all="ignore"):
                point, draws = ((m - b) / (e - b) for b, e, m in zip(zero, one, own, strict=True))
            found[h] = _told(float(point), draws)
            replicates.append(draws)
            points.append(float(point))
        least = _told(min(points), np.min(replicates, axis=0)) if points else None
        return {"h": found, "least": least, "mean": float(np.mean(points)) if points else None}

    def paired(self, model: str) -> dict[str, list[dict[str, Any]]]:
        """Data set -> a model minus each other one, with Holm's p over data sets."""
        values = side_by_side(self.models)
        pairs = {
            name: compare.paired(name, of_models, model, self.datasets[name]["direction"])
            for name, of_models in values.items()
            if model in of_models
        }
        compare.adjust(pairs)
        return pairs

    def conflict(self) -> dict[str, dict[str, Any]]:
        """Expert -> H -> its change over the base."""
        return {
            expert(h): {other: self.board.change(other, expert(h), BASE) for other in self.board.datasets}
            for h in H
            if expert(h) in self.models
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data of all of it."""
        reference = self.reference
        return {
            "place": self.place,
            "split": self.split,
            "datasets": self.datasets,
            "models": {
                name: {
                    "figures": self.figures(name),
                    "h": {h: self.board.value(h, name) for h in self.board.datasets},
                    **({"recovery": self.recovery(name)} if name in self.merges else {}),
                    **{key: self.facts[name][key] for key in ("merge_seconds", "seconds", "peak_mb", "ranks", "variant")
                       if key in self.facts[name]},
                }
                for name in self.models
            },
            "experts": {h: {"gain": self.gain(h), "recovery_defined": self.defined(h)} for h in self.board.datasets},
            "conflict": self.conflict(),
            "reference": reference,
            "paired": {} if reference is None else self.paired(reference),
        }  # fmt: skip

    @property
    def reference(self) -> str | None:
        """The model that the others are compared with, item by item: R-TSVM on the test split, what it extends else."""
        wanted = "r_tsvm" if self.split == "test" else "tsv_merge"
        return wanted if wanted in self.models else None


def _told(point: float, draws: Any) -> dict[str, Any]:
    finite = draws[np.isfinite(draws)]
    low, high = statistics.interval(finite) if finite.size and np.ptp(finite) > 0 else (None, None)
    return {"value": point, "low": low, "high": high}


@dataclass(frozen=True)
class Findings:
    """All arenas of a comparison, and where its steps stand."""

    records: Records
    arenas: tuple[Arena, ...]

    @classmethod
    def of(cls, records: Records) -> Findings:
        """From what is done; an arena without base and all three experts is left out until they are there."""
        return cls(records, tuple(_arenas(records)))

    @property
    def costs(self) -> dict[str, dict[str, float]]:
        """Action -> steps, seconds, and the most memory that one took."""
        found: dict[str, dict[str, float]] = {}
        for stood in self.records.steps.values():
            if stood.word == "done":
                one = found.setdefault(stood.action, {"steps": 0, "seconds": 0.0, "peak_mb": 0.0})
                one["steps"] += 1
                one["seconds"] += stood.facts["seconds"]
                one["peak_mb"] = max(one["peak_mb"], stood.facts["peak_mb"])
        return found

    @property
    def not_done(self) -> dict[str, dict[str, Any]]:
        """Step -> how it stands, and the error where it failed."""
        return {
            name: {"state": stood.word, "error": stood.facts.get("error")}
            for name, stood in self.records.steps.items() if stood.word != "done"
        }  # fmt: skip

    @property
    def mixtures(self) -> dict[str, Mapping[str, Any]]:
        """Step -> what a mixture is made of."""
        return self._told("mix")

    @property
    def tuned(self) -> dict[str, Mapping[str, Any]]:
        """Step -> the best trial of a search, and how many there were."""
        return self._told("tune")

    def _told(self, action: str) -> dict[str, Mapping[str, Any]]:
        """Facts of the steps of an action that are done."""
        return {
            name: stood.facts for name, stood in self.records.steps.items()
            if stood.word == "done" and stood.action == action
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        records = self.records
        return {
            "name": records.name,
            "base": records.base,
            "seed": records.seed,
            "arenas": [arena.to_dict() for arena in self.arenas],
            "training": self._told("train"),
            "mixtures": self.mixtures,
            "tuned": self.tuned,
            "costs": self.costs,
            "not_done": self.not_done,
        }

    def save(self, out: Path) -> Path:
        """Write findings.json, report.md and, where there is something to draw, pictures for light and dark pages.

        Returns:
            The report's path.
        """
        from .pictures import draw
        from .text import markdown

        write_aside(out / FINDINGS, json.dumps(self.to_dict(), indent=1, ensure_ascii=False, default=float) + "\n")
        pictures = {}
        for arena in self.arenas:
            if arena.split == "test" and arena.merges and arena.board.datasets:
                pictures[arena.place] = draw(arena, out)
        write_aside(out / REPORT, markdown(self, pictures))
        return out / REPORT


def _arenas(records: Records) -> Iterator[Arena]:
    places: dict[tuple[str, str], dict[str, str]] = {}
    for name in records.values:
        _, split, *place, label = name.split("/")
        if place and place[0] != "mixture":
            tuned = place[-1] == "tuned"
            home = "/".join(place[:-1] if tuned else place)
            places.setdefault((home, split), {})[f"{label} (tuned)" if tuned else label] = name
    for (home, split), found in places.items():
        base = f"measure/{split}/base"
        experts = {expert(h): found.pop(f"expert-{h}", "") for h in H}
        if any(name not in records.values for name in (base, *experts.values())):
            continue
        kind = home.split("/")[1]
        mixtures = {
            f"mix: {name.rsplit('/', 1)[1]}": name for name in records.values
            if name.startswith(f"measure/{split}/mixture/{kind}/")
        }  # fmt: skip
        steps = {BASE: base, **experts, **found, **mixtures}
        models = {label: records.values[name] for label, name in steps.items()}
        facts = {label: records.steps[name].facts for label, name in steps.items()}
        yield Arena(home, split, models, facts, records.datasets[split])
