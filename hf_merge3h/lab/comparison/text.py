"""The comparison's report as Markdown: what can be said, with intervals, and what cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...registry import get_method
from .config import CONTROLS

if TYPE_CHECKING:
    from .findings import Arena, Findings

_NOTES = (
    "What the paper calls its two training paradigms, and which three mixture techniques it compares, is not in its "
    "abstract: *static* (each expert from the base alone), *continual* (one H after another, each from the last) and "
    "the mixtures are our reading.",
    "R-TSVM is a reconstruction from the abstract of arXiv:2502.06876: its formulas are ours.",
    "In brackets: 95 % intervals over items. *Recovery*: (merged - base) / (expert - base) on the expert's own H, on "
    "the items that all models share; where the expert is not better than the base beyond the interval it is "
    "undefined, and the least recovery is over the others.",
    "Refusals are found by a rule over words in generated answers, on unsafe and on look-alike safe prompts.",
)


def markdown(findings: Findings, pictures: Mapping[str, Mapping[str, str]]) -> str:
    """The whole report."""
    records, left = findings.records, findings.not_done
    parts = [f"# Comparison: {records.name}", *_NOTES]
    steps = len(records.steps)
    parts.append(
        f"{steps - len(left)} of {steps} steps are done"
        + ("; what is not is listed at the end." if left else ".")
        + f" Seed {records.seed}; {'all' if records.limit is None else f'at most {records.limit}'} items a data set."
    )
    for arena in findings.arenas:
        parts += _arena(arena, pictures.get(arena.place) if arena.split == "test" else None)
    parts += _tuned(findings)
    parts += _mixed(findings)
    rows = [["", "steps", "minutes", "peak MB"]]
    rows += [
        [action, str(int(one["steps"])), f"{one['seconds'] / 60:.1f}", f"{one['peak_mb']:.0f}"]
        for action, one in findings.costs.items()
    ]
    parts += ["## Costs", table(rows)]
    if left:
        parts.append("## Not done")
        parts.append("\n".join(f"- `{name}`: {_why(**told)}" for name, told in left.items()))
    return "\n\n".join(parts) + "\n"


def _why(state: str, error: str | None) -> str:
    return f"{state}: {' '.join(error.split())}" if error else state


def _arena(arena: Arena, pictures: Mapping[str, str] | None) -> list[str]:
    title = f"## {arena.place}, {arena.split} split"
    parts = [title]
    names = list(arena.datasets)
    rows = [["", *names, *(f"recovery of {h}" for h in arena.board.datasets), "least", "rank"]]
    for model in _ordered(arena):
        figures = arena.figures(model)
        row = [_shown(model), *(_cell(figures.get(name)) for name in names)]
        if model in arena.merges:
            told = arena.recovery(model)
            row += [_cell(told["h"][h]) if told["h"][h] else "undefined" for h in arena.board.datasets]
            row.append(_cell(told["least"]))
        else:
            row += [""] * (len(arena.board.datasets) + 1)
        ranks = arena.facts[model].get("ranks")
        rows.append([*row, f"{ranks['mean']:.0f}" if ranks else ""])
    parts.append(table(rows))
    legend = [
        f"- {fact['title']} (`{name}`): {fact['key']}, {fact['direction']} is better"
        + ("" if fact["averaged"] else "; not part of its H's mean")
        for name, fact in arena.datasets.items()
    ]
    parts.append("\n".join(legend))
    undefined = [h for h in arena.board.datasets if not arena.defined(h)]
    if undefined:
        parts.append(
            f"The experts of {', '.join(undefined)} are not better than the base beyond the interval: what a merge "
            "recovers of them is not defined."
        )
    if pictures:
        parts.append(
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{pictures["dark"]}">'
            f'<img alt="Recovery of each H by method" src="{pictures["light"]}"></picture>'
        )
    if arena.board.datasets:
        parts += ["### What each expert changes", table(_conflict(arena))]
    if arena.reference is not None and len(arena.merges) > 1:
        parts += [f"### {arena.reference} minus the others, item by item", table(_paired(arena))]
    return parts


def _ordered(arena: Arena) -> list[str]:
    """Base and experts first, then merges by their least recovery."""
    fixed = [name for name in arena.models if name not in arena.merges]

    def least(name: str) -> float:
        told = arena.recovery(name)["least"]
        return -1e9 if told is None else float(told["value"])

    return [*fixed, *sorted(arena.merges, key=least, reverse=True)]


def _shown(model: str) -> str:
    name = model.removesuffix(" (tuned)")
    try:
        known = name not in CONTROLS and get_method(name).reconstruction
    except ValueError:
        return model
    return f"{model} (reconstruction)" if known else model


def _conflict(arena: Arena) -> list[list[str]]:
    hs = list(arena.board.datasets)
    rows = [["expert minus base", *hs]]
    return rows + [[name, *(_cell(of[h], signed=True) for h in hs)] for name, of in arena.conflict().items()]


def _paired(arena: Arena) -> list[list[str]]:
    assert arena.reference is not None
    rows = [["against", "data set", "difference", "n", "Holm p", ""]]
    pairs = arena.paired(arena.reference)
    for rival in arena.merges:
        for name, ones in pairs.items():
            for one in ones:
                if one["against"] == rival:
                    word = {True: "better", False: "worse", None: "cannot tell"}[one["better"]]
                    ends = {"value": one["difference"], "low": one["low"], "high": one["high"]}
                    rows.append([rival, name, _cell(ends, signed=True), str(one["n"]), f"{one['p_holm']:.3g}", word])
    return rows


def _tuned(findings: Findings) -> list[str]:
    rows = [["search, on the development split", "trials", "best", "balance there"]]
    for name, told in findings.tuned.items():
        best = told["best"]
        shown = ", ".join(f"{key} {value:.2f}" for key, value in best["parameters"].items())
        rows.append([name, str(told["trials"]), shown, f"{best['balance']:.3f}"])
    return ["## Each method's own scale", table(rows)] if len(rows) > 1 else []


def _mixed(findings: Findings) -> list[str]:
    rows = [["mixture", "proportions", "cosines of the sets' gradients"]]
    for name, told in findings.mixtures.items():
        shares = ", ".join(f"{role} {share:.0%}" for role, share in told["proportions"].items())
        cosines = "; ".join(" ".join(f"{value:+.2f}" for value in row) for row in told["cosines"] or [])
        rows.append([name, shares, cosines])
    return ["## Mixtures", table(rows)] if len(rows) > 1 else []


def _cell(figure: Mapping[str, Any] | None, signed: bool = False) -> str:
    if figure is None or figure.get("value") is None:
        return ""
    sign = "+" if signed else ""
    value = f"{figure['value']:{sign}.3f}"
    low, high = figure.get("low"), figure.get("high")
    return value if low is None or high is None else f"{value} [{low:{sign}.2f}, {high:{sign}.2f}]"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first row its head."""
    head, *rest = rows
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
