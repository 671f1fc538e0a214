"""What a quick evaluation found, as pictures: the three H of all models with their intervals, and every data set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from drawing import EXPERTS, INK, PANEL, draw_svg
from figures import Chart

_H = ("helpfulness", "honesty", "harmlessness")
_READ = (
    "Bars along an axis are 95 % intervals: where two of them overlap, so few questions cannot tell the models apart. "
    "Further out is better."
)


def charts_of(evaluation: Mapping[str, Any] | None) -> list[Chart]:
    """The pictures of an evaluation; none without one."""
    if not evaluation or not evaluation.get("datasets"):
        return []
    return [_radar(evaluation)]


def _radar(evaluation: Mapping[str, Any]) -> Chart:
    axes = list(_axes(evaluation))
    models = list(dict.fromkeys(name for _, values in axes for name in values))
    rows = [
        (label, name, *(found.get(key) for key in ("value", "low", "high", "n")))
        for label, values in [*axes, *_sets(evaluation)]
        for name, found in values.items()
    ]
    missing = [h for h in _H if h not in [label for label, _ in axes]]
    lacks = f" Not measured here: {', '.join(missing)}." if missing else ""
    return Chart(
        "evaluation",
        "Helpful, honest, harmless?",
        f"A quick look on {sum(each['n'] for each in evaluation['datasets'])} questions of "
        f"{len(evaluation['datasets'])} small data sets. {_READ}{lacks}",
        draw_svg(lambda panel: _draw(panel, axes, models, evaluation["merged"]), (PANEL[0], 4.4)),
        ("what", "model", "value", "low", "high", "questions"),
        tuple(tuple("-" if cell is None else cell for cell in row) for row in rows),
    )


def _axes(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The H that were measured: a value between 0 and 1 of each model, 1 being best."""
    for h, values in ((evaluation.get("summary") or {}).get("h") or {}).items():
        known = {
            name: found for name, found in values.items() if found and isinstance(found.get("value"), (int, float))
        }
        if known:
            yield h, known


def _sets(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in evaluation["datasets"]:
        arrow = "more" if each["direction"] == "higher" else "less"
        yield f"{each.get('title') or each['dataset']} ({each['metric']}, {arrow} is better)", each["values"]


def _draw(panel: Any, axes: list[tuple[str, dict[str, Any]]], models: list[str], merged: str) -> None:
    """A web by hand: plain axes, so that letters and lines are those of the other pictures."""
    angles = [math.pi / 2 - 2 * math.pi * place / max(3, len(axes)) for place in range(len(axes))]

    def at(angle: float, share: float) -> tuple[float, float]:
        return share * math.cos(angle), share * math.sin(angle)

    for ring in (0.25, 0.5, 0.75, 1.0):
        ends = [at(angle, ring) for angle in angles]
        panel.plot(*zip(*ends, ends[0], strict=True), color=INK, alpha=0.2, linewidth=0.7)
    for angle, (label, _) in zip(angles, axes, strict=True):
        panel.plot(*zip((0, 0), at(angle, 1), strict=True), color=INK, alpha=0.2, linewidth=0.7)
        x, y = at(angle, 1.12)
        panel.text(x, y, label, ha="center" if abs(x) < 0.1 else ("left" if x > 0 else "right"), va="center")
    for place, name in enumerate(models):
        look = dict(zip(("color", "linewidth", "linestyle"), _look(place, name == merged), strict=True))
        # a little to the side of the axis for each model, so that intervals do not cover each other
        shift = 0.035 * (place - (len(models) - 1) / 2)
        ends = [
            at(angle + shift, values[name]["value"])
            for angle, (_, values) in zip(angles, axes, strict=True)
            if name in values
        ]
        if len(ends) > 1:
            panel.plot(*zip(*ends, ends[0], strict=True), label=name, **look)
        for angle, (_, values) in zip(angles, axes, strict=True):
            found = values.get(name) or {}
            if isinstance(found.get("low"), (int, float)) and isinstance(found.get("high"), (int, float)):
                bar = [at(angle + shift, max(0.0, min(1.0, found[end]))) for end in ("low", "high")]
                panel.plot(*zip(*bar, strict=True), color=look["color"], linewidth=3, alpha=0.45)
            if found:
                panel.plot(*at(angle + shift, found["value"]), "o", color=look["color"], markersize=4)
                if len(ends) < 2:
                    panel.plot([], [], "o", color=look["color"], label=name)
                    ends = [(0.0, 0.0)] * 2
    panel.set(xlim=(-1.5, 1.5), ylim=(-1.0, 1.3), aspect="equal")
    panel.axis("off")
    panel.legend(frameon=False, fontsize=8, loc="lower center", ncols=min(3, len(models)), bbox_to_anchor=(0.5, -0.12))


def _look(place: int, merged: bool) -> tuple[str, float, str]:
    return (INK, 2.4, "-") if merged else (EXPERTS[place % len(EXPERTS)], 1.3, ("--", "-.", ":", "-")[place % 4])
