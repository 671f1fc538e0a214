"""What a run measured, as numbers alone: no questions and no answers, small enough to keep, all that a report needs."""

from __future__ import annotations

import gzip
import json
import os
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import SourceError, show
from ...evaluation.report import Report
from ...evaluation.store import write_aside
from .boards import Items, values_of
from .config import Lab
from .graph import Graph, State
from .measuring import RUN

RECORDS = "records.json"
SCHEMA = 1
#: what a step's facts say beyond where it stands, by action
_TOLD = {
    "train": ("steps", "first_loss", "last_loss"),
    "mix": ("proportions", "drawn", "cosines"),
    "tune": ("best", "trials"),
    "measure": ("merge_seconds", "variant", "ranks"),
}
_DIGITS = 7  # significant ones of an item's value: a float32 has no more


@dataclass(frozen=True)
class Stood:
    """Where a step stood when the records were made: `word` as in `State`, and what its result says."""

    action: str
    word: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Records:
    """All that a comparison's report is made of.

    Attributes:
        name, base, seed, limit: of the comparison.
        steps: name -> where it stood.
        values: step -> data set -> item -> value; of each model that was measured.
        datasets: split -> what its suite says of each data set.
    """

    name: str
    base: str
    seed: int
    limit: int | None
    steps: Mapping[str, Stood]
    values: Mapping[str, Items]
    datasets: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @classmethod
    def of(cls, lab: Lab, graph: Graph) -> Records:
        """From what is done."""
        states = list(graph.states())
        values: dict[str, Items] = {}
        datasets: dict[str, Any] = {}
        for state in states:
            if state.word == "done" and state.step.action == "measure":
                report = Report.read(state.folder / RUN)
                values[state.step.name] = _rounded(values_of(report))
                datasets.setdefault(state.step.name.split("/")[1], _described(report))
        steps = {state.step.name: Stood(state.step.action, state.word, _facts(state)) for state in states}
        return cls(lab.name, lab.base, lab.seed, lab.limit, steps, values, datasets)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Records:
        """From a file that `save` wrote.

        Raises:
            SourceError: it is not there, or holds something else.
        """
        try:
            content = Path(path).read_bytes()
            told = json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
            if told["schema"] != SCHEMA:
                raise SourceError(f"{path}: records of version {told['schema']}, expected {SCHEMA}")
            items = told["items"]
            values = {
                step: {
                    dataset: {item: v for item, v in zip(items[step.split("/")[1]][dataset], row, strict=True)
                              if v is not None}
                    for dataset, row in rows.items()
                }
                for step, rows in told["values"].items()
            }  # fmt: skip
            steps = {name: Stood(**one) for name, one in told["steps"].items()}
            return cls(told["name"], told["base"], told["seed"], told["limit"], steps, values, told["datasets"])
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(
                f"{path}: cannot be read as records of a run: {show(str(error))}; "
                f"expected the {RECORDS} that `hf-merge3h lab run` wrote, or it packed by gzip"
            ) from None

    def save(self, path: Path) -> None:
        """Write them as JSON, packed where the name ends with `.gz`; items once, and a row of values a model."""
        items: dict[str, dict[str, dict[str, None]]] = {}  # split -> data set -> items, each once, in order
        for step, of_datasets in self.values.items():
            for dataset, found in of_datasets.items():
                items.setdefault(step.split("/")[1], {}).setdefault(dataset, {}).update(dict.fromkeys(found))
        told = {
            "schema": SCHEMA, "name": self.name, "base": self.base, "seed": self.seed, "limit": self.limit,
            "steps": {name: asdict(one) for name, one in self.steps.items()}, "datasets": self.datasets,
            "items": {split: {dataset: list(found) for dataset, found in of_datasets.items()}
                      for split, of_datasets in items.items()},
            "values": {
                step: {dataset: [found.get(item) for item in items[step.split("/")[1]][dataset]]
                       for dataset, found in of_datasets.items()}
                for step, of_datasets in self.values.items()
            },
        }  # fmt: skip
        text = json.dumps(told, ensure_ascii=False, separators=(",", ":"), default=float) + "\n"
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(text.encode(), mtime=0))
        else:
            write_aside(path, text)


def _rounded(values: Items) -> Items:
    return {
        dataset: {item: float(f"{value:.{_DIGITS}g}") for item, value in found.items()}
        for dataset, found in values.items()
    }


def _described(report: Report) -> dict[str, Any]:
    """What a suite says of its data sets, without the items' names (those stand beside the values)."""
    keys = ("title", "h", "dimension", "key", "direction", "averaged")
    return {name: {key: fact[key] for key in keys} for name, fact in report.facts["datasets"].items()}


def _facts(state: State) -> dict[str, Any]:
    if state.word != "done":
        return {"error": state.facts["error"]} if "error" in state.facts else {}
    facts = {**state.facts, **_ranks(state.folder / "merge.json")}
    keys = ("seconds", "peak_mb", *_TOLD.get(state.step.action, ()))
    return {key: facts[key] for key in keys if key in facts}


def _ranks(path: Path) -> dict[str, dict[str, float]]:
    """`ranks`: mean, least and greatest one that a merge kept of its matrices; nothing where it kept them whole."""
    if not path.is_file():
        return {}
    told = json.loads(path.read_text(encoding="utf-8"))
    ranks = [one["kept_rank"] for one in told["tensors"] if one["kept_rank"] is not None]
    return {"ranks": {"mean": statistics.fmean(ranks), "least": min(ranks), "most": max(ranks)}} if ranks else {}
