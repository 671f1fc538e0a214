"""The picture of a merge report. matplotlib is imported when one is drawn, and never touches pyplot's state."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .report import MergeReport

# Okabe and Ito's palette, told apart by colour-blind readers; each line has a marker of its own as well.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def draw(report: MergeReport, *, dark: bool) -> Figure:
    """Four panels: norms by block, cosines between the experts, sign conflict by block, what survived by block."""
    from matplotlib.figure import Figure

    ink, paper = ("#e8e8e8", "#16181d") if dark else ("#202020", "#ffffff")
    figure = Figure(figsize=(11, 7.5), dpi=120, facecolor=paper, layout="constrained")
    panels = figure.subplots(2, 2)
    blocks = report.blocks
    names = [block.name for block in blocks]
    _lines(
        panels[0, 0],
        "Size of each change, by block",
        "Frobenius norm",
        {role: [block.norms[i] for block in blocks] for i, role in enumerate(report.roles)}
        | {"merged": [block.merged_norm for block in blocks]},
        ink,
    )
    _cosines(figure, panels[0, 1], report, ink)
    _lines(
        panels[1, 0],
        "Entries that two experts pull apart",
        "share of changed entries",
        {"sign conflict": [block.sign_conflict or 0.0 for block in blocks]},
        ink,
    )
    _lines(
        panels[1, 1],
        f"What survives storage in {report.output.get('dtype')}",
        "share of the merged change",
        {"survived": [block.survived for block in blocks]},
        ink,
    )
    for axes in (panels[0, 0], panels[1, 0], panels[1, 1]):
        _block_axis(axes, names)
    for axes in panels.flat:
        axes.set_facecolor(paper)
        axes.tick_params(colors=ink)
        axes.xaxis.label.set_color(ink)
        axes.yaxis.label.set_color(ink)
        axes.title.set_color(ink)
        for spine in axes.spines.values():
            spine.set_color(ink)
    figure.suptitle(f"{report.title}: {', '.join(report.roles)}", color=ink)
    return figure


def _lines(axes: Axes, title: str, label: str, series: dict[str, list[float]], ink: str) -> None:
    for index, (name, values) in enumerate(series.items()):
        merged = name == "merged"
        axes.plot(
            values,
            label=name,
            color=ink if merged else _COLOURS[index % len(_COLOURS)],
            marker="" if merged else _MARKERS[index % len(_MARKERS)],
            linestyle="--" if merged else "-",
            markersize=4,
            linewidth=1.4,
        )
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(label)
    greatest = max((value for values in series.values() for value in values), default=0.0)
    axes.set_ylim(0, 1.05 if label.startswith("share") else 1.08 * greatest or 1.0)
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=ink, fontsize=8)


def _cosines(figure: Figure, axes: Axes, report: MergeReport, ink: str) -> None:
    total = report.total
    labels = [*report.roles, "merged"]
    rows = [[*row, merged] for row, merged in zip(total.cosines, total.merged_cosines, strict=True)]
    rows.append([*total.merged_cosines, 1.0])
    image = axes.imshow(rows, vmin=-1, vmax=1, cmap="RdBu_r")
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="#fff" if abs(value) > 0.6 else "#000")
    axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_title("Cosine between the changes, whole model", fontsize=10)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.ax.tick_params(colors=ink)


def _block_axis(axes: Axes, names: list[str]) -> None:
    step = max(1, len(names) // 12)
    ticks = list(range(0, len(names), step))
    axes.set_xticks(ticks, [_tail(names[tick]) for tick in ticks], rotation=40, ha="right", fontsize=7)


def _tail(name: str) -> str:
    """The last two parts of a block's name, which is what tells blocks apart."""
    return ".".join(name.split(".")[-2:])[-22:]
