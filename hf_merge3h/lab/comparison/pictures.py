"""Recovery of each H by method, with intervals, in light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .findings import Arena

#: theme -> paper, ink, faint lines, dots of merges, dots of mixtures and of the reconstruction
_THEMES = {
    "light": ("#ffffff", "#202020", "#c8c8c8", "#0072B2", "#009E73", "#D55E00"),
    "dark": ("#16181d", "#e8e8e8", "#454b57", "#4DA6E8", "#3DD1A5", "#FF8A5B"),
}
#: recoveries further out are drawn at the edge
_EDGES = (-1.0, 2.5)


def draw(arena: Arena, out: Path) -> dict[str, str]:
    """A panel for each H and for the least; returns the files' names by theme."""
    from matplotlib.figure import Figure

    told = {name: arena.recovery(name) for name in arena.merges}
    hs = [h for h in arena.board.datasets if arena.defined(h)]
    names = sorted(told, key=lambda name: (told[name]["least"] or {"value": -1e9})["value"])
    stem = "recovery-" + arena.place.replace("/", "-")
    files = {}
    for theme, colours in _THEMES.items():
        paper, ink, faint = colours[:3]
        figure = Figure(figsize=(2.6 * (len(hs) + 1) + 2.4, 0.27 * len(names) + 1.3), dpi=110, facecolor=paper)
        figure.set_layout_engine("constrained")
        panels = figure.subplots(1, len(hs) + 1, sharey=True, squeeze=False)[0]
        for axes, h in zip(panels, [*hs, "least"], strict=True):
            figures = [told[name]["least"] if h == "least" else told[name]["h"][h] for name in names]
            for row, (name, one) in enumerate(zip(names, figures, strict=True)):
                if one is not None:
                    _dot(axes, row, one, _colour(name, colours))
            axes.axvline(0, color=faint, linewidth=1)
            axes.axvline(1, color=faint, linewidth=1, linestyle="--")
            axes.set(facecolor=paper, title="least of them" if h == "least" else h, ylim=(-0.7, len(names) - 0.3))
            axes.set_yticks(range(len(names)), names)
            axes.tick_params(colors=ink, labelsize=8)
            axes.title.set(color=ink, fontsize=10)
            for spine in axes.spines.values():
                spine.set_color(faint)
        figure.supxlabel("recovery: 0 is the base, 1 the expert", color=ink, fontsize=9)
        files[theme] = f"{stem}-{theme}.png"
        figure.savefig(out / files[theme], metadata={"Software": None})
    return files


def _colour(name: str, colours: tuple[str, ...]) -> str:
    if name.startswith("mix: "):
        return colours[4]
    return colours[5] if name.startswith("r_tsvm") else colours[3]


def _dot(axes: Any, row: int, figure: dict[str, Any], colour: str) -> None:
    """A value with its interval; one far out, which would squeeze the others, is an arrow with its number."""
    marker = {"#009E73": "s", "#3DD1A5": "s", "#D55E00": "*", "#FF8A5B": "*"}.get(colour, "o")
    value, place = figure["value"], _within(figure["value"])
    if figure["low"] is not None and value == place:
        axes.plot([_within(figure["low"]), _within(figure["high"])], [row, row], color=colour, linewidth=1.3)
    if value != place:
        marker = "<" if value < place else ">"
        side = "left" if value < place else "right"
        shift = (5 if side == "left" else -5, 0)
        axes.annotate(f"{value:.3g}", (place, row), shift, textcoords="offset points", ha=side, va="center",
                      color=colour, fontsize=8)  # fmt: skip
    axes.plot(place, row, marker=marker, color=colour, markersize=9 if marker == "*" else 5)


def _within(value: float) -> float:
    return min(max(value, _EDGES[0]), _EDGES[1])
