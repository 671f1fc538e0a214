"""The report: made from a folder of items alone, as text, JSON, one HTML page and pictures."""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MergeError, MergeWarning, SourceError, show
from . import compare
from .compare import Figure, Values
from .scoring import figures
from .store import Row, Store, write_aside
from .suite import LIKELIHOOD, H, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

_MANIFEST = "merge3h.json"


@dataclass(frozen=True)
class Report:
    """What models scored on the same items, and what a merge did.

    Attributes:
        facts: what was asked: suite, models, data sets, what was not evaluated.
        answers: model -> data set -> item -> what the model said.
        scores: model -> data set -> item -> its value and the metric's own item.
    """

    facts: Mapping[str, Any]
    answers: Mapping[str, Mapping[str, Mapping[str, Row]]]
    scores: Mapping[str, Mapping[str, Mapping[str, Row]]]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Report:
        """From a folder that `evaluate_3h(..., out=folder)` made.

        Raises:
            SourceError: there is no run in it.
        """
        path = Path(folder) / "run.json"
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            names = [(model, dataset) for model in facts["models"] for dataset in facts["datasets"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{path}: no run that can be reported: {show(str(error))}") from None
        answers: dict[str, dict[str, dict[str, Row]]] = {}
        scores: dict[str, dict[str, dict[str, Row]]] = {}
        for model, dataset in names:
            chosen = facts["datasets"][dataset]["ids"]
            for kind, into in (("answers", answers), ("scores", scores)):
                rows = Store(Path(folder) / "items" / model / f"{dataset}.{kind}.jsonl").rows
                into.setdefault(model, {})[dataset] = {name: rows[name] for name in chosen if name in rows}
        return cls(facts, answers, scores)

    @property
    def models(self) -> list[str]:
        """Names, in the order in which they were given."""
        return list(self.facts["models"])

    @property
    def merged(self) -> str:
        """The model that the others are compared with: `merged`, else the last one."""
        return "merged" if "merged" in self.facts["models"] else self.models[-1]

    @property
    def base(self) -> str | None:
        """`base`, where it was evaluated."""
        return "base" if "base" in self.facts["models"] and self.merged != "base" else None

    @property
    def experts(self) -> dict[str, str | None]:
        """Experts and the H that each is one of (None: not said)."""
        return {name: h for name, h in self.facts["experts"].items() if name != self.merged}

    @functools.cached_property
    def values(self) -> dict[str, Values]:
        """Data set -> model -> item -> value, those that have one."""
        return {
            dataset: {
                model: {
                    item: float(row["value"])
                    for item, row in self.scores[model][dataset].items()
                    if row.get("value") is not None
                }
                for model in self.models
            }
            for dataset in self.facts["datasets"]
        }

    @functools.cached_property
    def figures(self) -> dict[str, dict[str, Figure]]:
        """Data set -> model -> value with interval."""
        return {
            dataset: {model: compare.figure(items, "figure", dataset) for model, items in of_models.items() if items}
            for dataset, of_models in self.values.items()
        }

    @functools.cached_property
    def paired(self) -> dict[str, list[dict[str, Any]]]:
        """Data set -> the merged model against each other one."""
        pairs = {
            name: compare.paired(
                name, {m: v for m, v in self.values[name].items() if v}, self.merged, fact["direction"]
            )
            for name, fact in self.facts["datasets"].items()
            if self.values[name].get(self.merged)
        }
        compare.adjust(pairs)
        return pairs

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """H values, gain, retention, recovery, min-H, worst drop, Pareto, hypervolume, conflict matrix, coverage."""
        board = compare.board(self.values, self.facts["datasets"], self.models)
        told = {} if board is None else compare.summarise(board, self.base, self.merged, self.experts)
        return told | {"coverage": self._coverage(), "left_out": dict(self.facts["left_out"])}

    def _coverage(self) -> dict[str, str]:
        """How many of the data sets of each H there are figures of: of the suite, or of those asked for."""
        asked, told = self.facts.get("asked"), {}
        for h in H:
            done = sum(
                fact["h"] == h and fact["averaged"] and bool(self.figures[name])
                for name, fact in self.facts["datasets"].items()
            )
            missing = [
                one["dataset"] for one in self.not_evaluated
                if one["h"] == h and self.facts["datasets"].get(one["dataset"], {}).get("averaged", True)
            ]  # fmt: skip
            counted = [name for name in missing if asked is None or name in asked]
            whole = done + len(counted)
            told[h] = f"{done} of {whole} datasets" + ("" if asked is None else " asked for")
            if not whole:
                told[h] = f"none of {len(missing)} datasets was asked for" if missing else "the suite has none of it"
            elif len(missing) > len(counted):
                told[h] += f" ({len(missing) - len(counted)} more were not)"
        return told

    @property
    def not_evaluated(self) -> list[dict[str, str]]:
        """Data sets without figures, and why; also those that a model could not be asked, that a judge was not read on,
        or that a killed run did not come to.
        """
        found = list(self.facts["not_evaluated"])
        for dataset, fact in self.facts["datasets"].items():
            scored = sum(len(self.scores[model][dataset]) for model in self.models)
            if scored and not self.figures[dataset]:
                reason = f"none of {scored} verdicts could be read (parse_rate 0), so its rate may be anything"
                found.append({"dataset": dataset, "h": fact["h"], "reason": reason})
            elif not scored and fact["ids"] and dataset not in self.facts["refused"]:
                reason = "the run ended before this was scored; the same call goes on where it stopped"
                found.append({"dataset": dataset, "h": fact["h"], "reason": reason})
        for dataset, reasons in self.facts["refused"].items():
            said = "; ".join(f"{model}: {reason}" for model, reason in reasons.items())
            found.append({"dataset": dataset, "h": self.facts["datasets"][dataset]["h"], "reason": said})
        return found

    def flips(self, dataset: str, against: str) -> dict[str, list[dict[str, Any]]]:
        """Items whose verdict changed from another model to the merged one, with texts; {} without verdicts."""
        values = self.values[dataset]
        if not values.get(self.merged) or not values.get(against):
            return {}
        if not all(value in (0, 1) for model in (self.merged, against) for value in values[model].values()):
            return {}
        return {
            way: [self._texts(dataset, item, against) for item in items]
            for way, items in compare.flips(values, self.merged, against).items()
        }

    def _texts(self, dataset: str, item: str, against: str) -> dict[str, Any]:
        rows = {model: self.answers[model][dataset][item] for model in (against, self.merged)}
        said = {model: row.get("answers", row.get("log_likelihoods")) for model, row in rows.items()}
        return {"id": item, "question": rows[against].get("question", ""), "answers": said}

    def metric_figures(self, dataset: str, model: str) -> dict[str, float]:
        """All figures of the data set's metric, parse rates and bounds among them."""
        fact = self.facts["datasets"][dataset]
        if fact["metric"] == LIKELIHOOD:
            return {}
        task = Task(
            dataset, fact["title"], fact["h"], fact["dimension"], fact["metric"], fact["key"], fact["direction"],
            fact["form"], {"file": ""}, {}, options=fact["options"],
        )  # fmt: skip
        return figures(task, self.scores[model][dataset].values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the `evaluation` object of merge3h.json (docs/MANIFEST.md), and what it is made of."""
        facts = self.facts
        return {
            "suite": facts["suite"], "date": facts["date"], "versions": facts["versions"], "judge": facts["judge"],
            "base": self.base, "merged": self.merged, "experts": self.experts,
            "datasets": [self._dataset(name) for name in facts["datasets"] if self.figures[name]],
            "not_evaluated": self.not_evaluated, "summary": self.summary,
            "seed": facts["seed"], "limit": facts["limit"], "max_seconds": facts.get("max_seconds"),
            "stopped": facts.get("stopped", {}), "suite_digest": facts["suite_digest"],
            "models": facts["models"], "warnings": facts["warnings"],
        }  # fmt: skip

    def _dataset(self, name: str) -> dict[str, Any]:
        fact = self.facts["datasets"][name]
        told = {key: fact[key] for key in ("title", "dataset_id", "dataset_revision", "split", "licence", "dimension",
                                           "h", "metric", "key", "direction", "averaged")}  # fmt: skip
        return {
            "dataset": name, **told, "n": len(fact["ids"]),
            "values": {model: one.plain() for model, one in self.figures[name].items()},
            "paired": self.paired.get(name, []),
            "figures": {model: self.metric_figures(name, model) for model in self.figures[name]},
            "flips": {
                other: {way: len(items) for way, items in found.items()}
                for other in self.models if other != self.merged and (found := self.flips(name, other))
            },
        }  # fmt: skip

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The same as text; also written to a path."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        return _written(text, path)

    def to_markdown(self, path: str | os.PathLike[str] | None = None) -> str:
        """Tables for a README; also written to a path."""
        from .text import markdown

        return _written(markdown(self), path)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """One page that needs no network; also written to a path."""
        from .html import page

        return _written(page(self), path)

    def plot(
        self, path: str | os.PathLike[str] | None = None, *, dark: bool = False, kind: str | None = None
    ) -> Picture:
        """Draw the radar, the refusal plane and the conflict matrix; or one of them.

        Args:
            path: also save the picture there (its suffix tells the format).
            dark: for dark pages.
            kind: "radar", "refusals" or "conflict"; all that there is data for by default.

        Returns:
            The matplotlib figure.
        """
        from .plot import draw

        picture = draw(self, dark=dark, kind=kind)
        if path is not None:
            picture.savefig(path)
        return picture

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write report.json, report.md and report.html into a folder."""
        self.to_json(Path(folder) / "report.json")
        self.to_markdown(Path(folder) / "report.md")
        self.to_html(Path(folder) / "report.html")

    def write_into(self, folder: str | os.PathLike[str]) -> bool:
        """Put the results into a merged model's merge3h.json, and so into its card; False where the folder has none.

        A card that cannot be written (its markers do not pair) is warned of: the results are in merge3h.json.
        """
        path = Path(folder) / _MANIFEST
        if not path.is_file():
            return False
        from ..manifest import load_manifest, plain
        from ..publishing.card import write_card

        content = {**load_manifest(path).content, "evaluation": plain(self.to_dict())}
        write_aside(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        try:
            write_card(folder, picture=False)
        except MergeError as problem:
            warnings.warn(f"the results are in {path}, and not in its card: {problem}", MergeWarning, stacklevel=2)
        return True

    def __repr__(self) -> str:
        from .text import plain_text

        return plain_text(self)


def _written(text: str, path: str | os.PathLike[str] | None) -> str:
    if path is not None:
        write_aside(Path(path), text)
    return text


def regressions(report: Report) -> list[tuple[str, dict[str, Any]]]:
    """Data sets on which the merged model is worse than another one, distinguishably; the largest drops first."""
    found = [(name, one) for name, ones in report.paired.items() for one in ones if one["better"] is False]
    return sorted(found, key=lambda pair: -abs(pair[1]["difference"]))


def order(models: Sequence[str], merged: str) -> list[str]:
    """Models with the merged one last."""
    return [*(name for name in models if name != merged), merged]
