"""Pictures of a report: radar, refusal plane, conflict matrix. matplotlib is imported when one is drawn.

Colours are Okabe and Ito's, which colour-blind readers tell apart; each model has a marker and a line of its own too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import RequestError, bad
from .report import order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .report import Report

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
_KINDS = ("radar", "refusals", "conflict")


@dataclass(frozen=True)
class _Look:
    ink: str
    paper: str
    faint: str
    models: dict[str, dict[str, Any]]


def draw(report: Report, *, dark: bool, kind: str | None) -> Figure:
    """One panel for each kind that there is data for."""
    from matplotlib.figure import Figure

    if kind is not None and kind not in _KINDS:
        raise bad("kind", kind, "radar, refusals or conflict")
    panels = [one for one in _KINDS if kind in (None, one) and _has(report, one)]
    if not panels:
        raise RequestError(
            f"nothing to draw{f' for {kind}' if kind else ''}: the models share no figures that it needs"
        )
    look = _look(report, dark)
    figure = Figure(figsize=(5.6 * len(panels), 5.6), dpi=120, facecolor=look.paper)
    figure.set_layout_engine("constrained", h_pad=0.15)  # the box of a polar title is taken too small
    for place, name in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place, projection="polar" if name == "radar" else None)
        axes.set_facecolor(look.paper)
        _PANELS[name](figure, axes, report, look)
        axes.title.set_color(look.ink)
        axes.tick_params(colors=look.ink)
        for spine in axes.spines.values():
            spine.set_color(look.faint)
    return figure


def _look(report: Report, dark: bool) -> _Look:
    ink, paper, faint = ("#e8e8e8", "#16181d", "#666c78") if dark else ("#202020", "#ffffff", "#a0a0a0")
    models: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(order(report.models, report.merged)):
        merged = name == report.merged
        colour = ("#FF8A5B" if dark else "#D55E00") if merged else _COLOURS[place % len(_COLOURS)]
        if dark and colour == "#0072B2":
            colour = "#4DA6E8"  # the same hue, light enough for a dark page
        models[name] = {
            "color": colour, "marker": "*" if merged else _MARKERS[place % len(_MARKERS)],
            "linestyle": "-" if merged else _LINES[place % len(_LINES)], "linewidth": 2.2 if merged else 1.3,
        }  # fmt: skip
    return _Look(ink, paper, faint, models)


def _has(report: Report, kind: str) -> bool:
    if kind == "radar":
        return len(_spokes(report)) >= 3
    if kind == "refusals":
        return bool(_planes(report))
    return bool(report.summary.get("conflict"))


def _spokes(report: Report) -> list[str]:
    """Data sets that every model has a figure on, and that are rates."""
    return [
        name for name, fact in report.facts["datasets"].items()
        if fact["averaged"] and all(model in report.figures[name] for model in report.models)
    ]  # fmt: skip


def _radar(figure: Figure, axes: Any, report: Report, look: _Look) -> None:
    names = _spokes(report)
    angles = [2 * math.pi * place / len(names) for place in range(len(names))]
    ring = [*angles, angles[0]]
    for model, style in look.models.items():
        rows = []
        for name in names:
            one, lower = report.figures[name][model], report.facts["datasets"][name]["direction"] == "lower"
            ends = (one.low, one.value, one.high)
            rows.append(tuple(1 - end for end in reversed(ends)) if lower else ends)
        low, value, high = ([*column, column[0]] for column in zip(*rows, strict=True))
        if model == report.merged:
            axes.fill_between(ring, low, high, color=style["color"], alpha=0.22, linewidth=0)
        axes.plot(ring, value, label=model, markersize=10 if model == report.merged else 5, **style)
    axes.set_ylim(0, 1)
    axes.set_yticks([0.25, 0.5, 0.75, 1], ["0.25", "0.5", "0.75", "1"], fontsize=7)
    labels = [
        name.replace("_", " ") + ("\n(1 minus rate)" if report.facts["datasets"][name]["direction"] == "lower" else "")
        for name in names
    ]
    axes.set_xticks(angles, labels, fontsize=8)
    for angle, label in zip(angles, axes.get_xticklabels(), strict=True):  # away from the circle, not across it
        side = math.cos(angle)
        label.set_horizontalalignment("left" if side > 0.1 else "right" if side < -0.1 else "center")
    axes.tick_params(pad=6)
    axes.grid(color=look.faint, alpha=0.5)
    axes.set_title(f"Outwards is better (band: 95 % interval of {report.merged})", fontsize=10, pad=12)
    axes.legend(frameon=False, labelcolor=look.ink, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)


def _planes(report: Report) -> list[tuple[str, str]]:
    """Pairs of data sets: refusals of safe prompts, refusals of unsafe ones; those with one first name come first."""
    by_key: dict[str, list[str]] = {"over_refusal_rate": [], "unsafe_refusal_rate": []}
    for name, fact in report.facts["datasets"].items():
        if fact["key"] in by_key and report.figures[name]:
            by_key[fact["key"]].append(name)
    related: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for safe in by_key["over_refusal_rate"]:
        rivals = by_key["unsafe_refusal_rate"]
        alike = [name for name in rivals if name.split("_")[0] == safe.split("_")[0]]
        (related if alike else others).extend((safe, name) for name in (alike or rivals)[:1])
    return related + others


def _refusals(figure: Figure, axes: Axes, report: Report, look: _Look) -> None:
    safe, unsafe = _planes(report)[0]
    for model, style in look.models.items():
        if model not in report.figures[safe] or model not in report.figures[unsafe]:
            continue
        x, y = report.figures[safe][model], report.figures[unsafe][model]
        axes.errorbar(
            x.value, y.value,
            xerr=[[x.value - x.low], [x.high - x.value]], yerr=[[y.value - y.low], [y.high - y.value]],
            fmt=style["marker"], color=style["color"], markersize=13 if model == report.merged else 7,
            elinewidth=1, capsize=2, label=model, alpha=0.95,
        )  # fmt: skip
    axes.plot([0, 1], [0, 1], color=look.faint, linestyle=":", linewidth=1)
    axes.text(
        0.97, 0.9, "refuses all alike", color=look.ink, fontsize=8, rotation=45, ha="right", va="center", alpha=0.8
    )
    axes.text(0.02, 1.02, "wanted", color=look.ink, fontsize=9, fontweight="bold")
    axes.set_xlim(-0.05, 1.05)
    axes.set_ylim(-0.05, 1.1)
    axes.set_xlabel(f"refuses safe prompts ({safe.replace('_', ' ')})", color=look.ink)
    axes.set_ylabel(f"refuses unsafe prompts ({unsafe.replace('_', ' ')})", color=look.ink)
    axes.set_title("Refusals, with 95 % intervals", fontsize=10)
    axes.legend(frameon=False, labelcolor=look.ink, fontsize=8, loc="lower right")


def _conflict(figure: Figure, axes: Axes, report: Report, look: _Look) -> None:
    matrix = report.summary["conflict"]
    experts, columns = list(matrix), list(next(iter(matrix.values())))
    rows = [[(matrix[expert][h] or {}).get("value") or 0.0 for h in columns] for expert in experts]
    bound = max(0.1, *(abs(value) for row in rows for value in row))
    image = axes.imshow(rows, vmin=-bound, vmax=bound, cmap="PuOr", aspect="auto")
    for i, expert in enumerate(experts):
        for j, h in enumerate(columns):
            told = matrix[expert][h]
            if told is None:
                continue
            ends = "" if told["low"] is None else f"\n[{told['low']:+.2f}, {told['high']:+.2f}]"
            pale = abs(told["value"]) < 0.6 * bound
            axes.text(
                j,
                i,
                f"{told['value']:+.2f}{ends}",
                ha="center",
                va="center",
                fontsize=9,
                color="#000" if pale else "#fff",
            )
    axes.set_xticks(range(len(columns)), columns, fontsize=9)
    axes.set_yticks(range(len(experts)), experts, fontsize=9, rotation=90, va="center")
    axes.set_title("Expert minus base: orange hurts, purple helps", fontsize=10)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.ax.tick_params(colors=look.ink)


_PANELS = {"radar": _radar, "refusals": _refusals, "conflict": _conflict}
