"""What a quick evaluation found, as pictures: the three H of all models with their intervals, and every data set."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from drawing import DASHES, EXPERTS, INK, MARKERS, PANEL, draw_svg, looks
from figures import Chart

_H = ("helpfulness", "honesty", "harmlessness")
_HOLE = 0.22  # how far from the middle 0 stands
_CELLS = ("value", "low", "high", "n")
_READ = (
    "Bars along an axis are 95 % intervals: where two of them overlap, so few questions cannot tell the models apart. "
    "Further out is better."
)

_AGREED = " Where a bar is missing, all answers agree; with so few of them that makes no value sure."
_LIKELY = (
    " {who} (likelihood): how probable the next token of a right solution is to a model, in the geometric mean, for no "
    "answers that can be checked were written in the time. Compare models along that axis, not that axis with others."
)


def charts_of(evaluation: Mapping[str, Any] | None) -> list[Chart]:
    """The pictures of an evaluation; none without one."""
    if not evaluation or not evaluation.get("datasets"):
        return []
    return [_radar(evaluation)]


def _radar(evaluation: Mapping[str, Any]) -> Chart:
    axes = dict(_axes(evaluation))
    likely = {h: values for h, values in _likely(evaluation) if h not in axes}
    axes |= likely
    models = list(dict.fromkeys(name for values in axes.values() for name in values))
    rows = [
        (f"{label} (likelihood)" if label in likely else label, name, *(found.get(key) for key in _CELLS))
        for label, values in [*axes.items(), *_sets(evaluation)]
        for name, found in values.items()
    ]
    return Chart(
        "evaluation",
        "Helpful, honest, harmless?",
        f"A quick look on {sum(each['n'] for each in evaluation['datasets'])} questions of "
        f"{len(evaluation['datasets'])} small data sets. {_READ}{_notes(axes, likely)}",
        draw_svg(lambda panel: _draw(panel, axes, models, evaluation["merged"], likely), (PANEL[0], 4.4)),
        ("what", "model", *_CELLS[:3], "asked"),
        tuple(tuple("-" if cell is None else cell for cell in row) for row in rows),
    )


def _notes(axes: Mapping[str, dict[str, Any]], likely: Collection[str]) -> str:
    """What keeps this picture from being read as any other."""
    text = _AGREED if any(found.get("low") is None for values in axes.values() for found in values.values()) else ""
    text += _LIKELY.format(who=", ".join(likely).capitalize()) if likely else ""
    missing = [h for h in _H if h not in axes]
    return text + (f" Not measured here: {', '.join(missing)}." if missing else "")


def _axes(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The H that were measured: a value between 0 and 1 of each model, 1 being best."""
    for h, values in ((evaluation.get("summary") or {}).get("h") or {}).items():
        alone = [each for each in evaluation["datasets"] if each["h"] == h and each.get("averaged", True)]
        only = alone[0] if len(alone) == 1 else None
        known = {
            name: _with_interval(found, only, name)
            for name, found in values.items()
            if found and isinstance(found.get("value"), (int, float))
        }
        if known:
            yield h, known


def _likely(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Mean log-likelihoods of a token, which count for no H, as the probabilities that they are the logarithms of."""
    for each in evaluation["datasets"]:
        if each["key"] == "log_likelihood":
            yield each["h"], {name: _probability(found) for name, found in each["values"].items()}


def _probability(found: Mapping[str, Any]) -> dict[str, Any]:
    ends = {end: math.exp(found[end]) for end in _CELLS[:3] if found.get(end) is not None}
    return {**found, **ends}


def _with_interval(found: Mapping[str, Any], only: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """An H that is one data set has the interval of that, where it has none of its own."""
    its = only["values"].get(name) if only is not None else None
    if found.get("low") is not None or not its or its.get("low") is None:
        return dict(found)
    low, high = its["low"], its["high"]
    better = only is not None and only["direction"] == "higher"
    return {**found, "low": low if better else 1 - high, "high": high if better else 1 - low}


def _sets(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in evaluation["datasets"]:
        arrow = "more" if each["direction"] == "higher" else "less"
        yield f"{each.get('title') or each['dataset']} ({each['metric']}, {arrow} is better)", each["values"]


def _at(angle: float, share: float, aside: float = 0.0) -> tuple[float, float]:
    """Where a value stands; 0 is not in the middle, where all axes and models would lie on each other."""
    out = _HOLE + (1 - _HOLE) * share
    return out * math.cos(angle) - aside * math.sin(angle), out * math.sin(angle) + aside * math.cos(angle)


def _draw(
    panel: Any, axes: Mapping[str, dict[str, Any]], models: list[str], merged: str, likely: Collection[str]
) -> None:
    """A web by hand: plain axes, so that letters and lines are those of the other pictures."""
    angles = {h: math.pi / 2 - 2 * math.pi * place / len(_H) for place, h in enumerate(_H)}
    for ring in (0, 0.25, 0.5, 0.75, 1.0):
        ends = [_at(angle, ring) for angle in angles.values()]
        panel.plot(*zip(*ends, ends[0], strict=True), color=INK, alpha=0.5 if ring == 0 else 0.2, linewidth=0.7)
    for ring in (0.5, 1):
        x, y = _at(math.pi / 2, ring)
        panel.text(x - 0.2, y, f"{ring:g}", ha="right", va="center", fontsize=7, alpha=0.7)
    panel.text(0, 0, "0", ha="center", va="center", fontsize=7, alpha=0.7)  # no line passes there
    for h, angle in angles.items():
        there = h in axes
        panel.plot(
            *zip(_at(angle, 0), _at(angle, 1), strict=True), color=INK, alpha=0.2, linewidth=0.7,
            linestyle="-" if there else ":",
        )  # fmt: skip
        x, y = _at(angle, 1.14)
        side = "center" if abs(x) < 0.1 else ("left" if x > 0 else "right")
        more = "\n(likelihood)" if h in likely else ("" if there else "\n(not measured)")
        panel.text(x, y, f"{h}{more}", ha=side, va="center")
    known = looks(models)
    for place, name in enumerate(models):
        mark, look = _look(known[name], name == merged)
        aside = 0.06 * (place - (len(models) - 1) / 2)
        points = {h: _at(angles[h], values[name]["value"], aside) for h, values in axes.items() if name in values}
        if len(points) == len(_H):
            ends = [points[h] for h in _H]
            panel.plot(*zip(*ends, ends[0], strict=True), **look)
        for h, point in points.items():
            low, high = (axes[h][name].get(end) for end in ("low", "high"))
            if isinstance(low, (int, float)) and isinstance(high, (int, float)):
                bar = [_at(angles[h], max(0.0, min(1.0, end)), aside) for end in (low, high)]
                panel.plot(*zip(*bar, strict=True), color=look["color"], linewidth=3, alpha=0.45)
            panel.plot(*point, mark, color=look["color"], markersize=6 if name == merged else 4.5)
        panel.plot([], [], marker=mark, markersize=4.5, label=name, **look)
    panel.set(xlim=(-1.5, 1.5), ylim=(-1.0, 1.3), aspect="equal")
    panel.axis("off")
    panel.legend(frameon=False, fontsize=8, loc="lower center", ncols=min(3, len(models)), bbox_to_anchor=(0.5, -0.12))


def _look(place: int, merged: bool) -> tuple[str, dict[str, Any]]:
    """Marker and line."""
    if merged:
        return "o", {"color": INK, "linewidth": 2.4, "linestyle": "-"}
    return MARKERS[place], {"color": EXPERTS[place], "linewidth": 1.3, "linestyle": DASHES[place]}
