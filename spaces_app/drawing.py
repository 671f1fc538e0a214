"""Pictures as SVG, drawn in stand-in colours: on the page they become CSS variables, in a download plain colours."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

#: Stand-ins that matplotlib draws with -> CSS variable, and colour in a downloaded file. Dark text on light paper.
COLOURS = {
    "#010203": ("currentColor", "#1f2937"),
    "#010204": ("var(--chart-1)", "#0b62a4"),
    "#010205": ("var(--chart-2)", "#b45309"),
    "#010206": ("var(--chart-3)", "#047857"),
    "#010207": ("var(--chart-4)", "#8b3fa8"),
}
INK, *EXPERTS = COLOURS
MARKERS = ("s", "^", "v", "D")
DASHES = ("--", "-.", ":", "-")
_KNOWN = ("base", "helpfulness", "honesty", "harmlessness")  # look the same in all pictures
PANEL = (5.2, 3.3)  # inches: about as wide as a phone, so that the letters keep their size


def short(name: str) -> str:
    """The end of a tensor's name, which is what tells it from others."""
    return ".".join(name.removesuffix(".weight").split(".")[-4:])[-30:]


def looks(names: Iterable[str]) -> dict[str, int]:
    """Which colour, marker and dashes each model has: its own for who is known, what is left for the others."""
    names = [name for name in names if name != "merged"]
    free = [place for place, known in enumerate(_KNOWN) if known not in names] or [*range(len(_KNOWN))]
    others = [name for name in names if name not in _KNOWN]
    found = {name: free[at % len(free)] for at, name in enumerate(others)}
    found |= {name: _KNOWN.index(name) for name in names if name in _KNOWN}
    return {name: found[name] for name in names} | {"merged": 0}


def line(axes: Any, x: Any, y: Sequence[float], place: int, name: str) -> None:
    """One series; experts have colours, markers and dashes of their own, the merge is thick and plain."""
    merged = name in ("merged", "in conflict", "survived")
    axes.plot(
        x, y, label=name, color=INK if merged else EXPERTS[place],
        marker="" if merged else MARKERS[place], markersize=3.5,
        linestyle="-" if merged else DASHES[place], linewidth=2.4 if merged else 1.4,
    )  # fmt: skip


def lines(names: Sequence[str], series: Mapping[str, Sequence[float]], x: str, y: str, share: bool = False) -> str:
    """Several series over the layers, as SVG."""

    def draw(axes: Any) -> None:
        look = looks(series)
        for name, values in series.items():
            line(axes, range(len(values)), values, look[name], name)
        step = max(1, len(names) // 8)
        axes.set_xticks(range(0, len(names), step), [names[at][:12] for at in range(0, len(names), step)])
        greatest = max((value for values in series.values() for value in values), default=0.0)
        axes.set(xlabel=x, ylabel=y, ylim=(0, 1.05 if share else 1.12 * greatest or 1.0))
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=8)

    return draw_svg(draw, PANEL)


def draw_svg(draw: Callable[[Any], None], inches: tuple[float, float], grid: tuple[int, int] = (1, 1)) -> str:
    """SVG of a figure; drawn with stand-in colours."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": INK, "grid.alpha": 0.12,
        "svg.fonttype": "none", "svg.hashsalt": f"{draw.__qualname__}{inches}", "font.size": 9, "axes.titlecolor": INK,
        "legend.labelcolor": INK, "svg.id": None,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=inches, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots(*grid, squeeze=False)
        for panel in axes.flat:
            panel.patch.set_alpha(0)
        draw(axes if grid != (1, 1) else axes[0, 0])
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None})
    svg = target.getvalue()
    return svg[svg.index("<svg") :]


def square(x: float, y: float, colour: str, alpha: float) -> Any:
    """One field of a grid, the stronger the more opaque."""
    from matplotlib.patches import Rectangle

    return Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, facecolor=colour, alpha=alpha, linewidth=0)
