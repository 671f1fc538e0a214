"""The picture of a merge: plain figures in, matplotlib out. It is imported when one is drawn, and pyplot never is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..manifest import Manifest
from .facts import facts_of
from .text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers; each line has a marker of its own as well.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_MERGED = "merged"  # drawn in the colour of the text
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def draw_pair(manifest: Manifest, folder: Path) -> None:
    """Draw a merge's largest set of experts for light and for dark pages, under the names that cards show."""
    from .card import PICTURES

    facts = facts_of(manifest)
    party = max(facts.diagnostics, key=lambda each: each["total"]["numbers"])
    dtype = ", ".join(facts.content["output"]["dtypes"])
    figure = draw(facts.method["title"], party["roles"], party["blocks"], party["total"], dtype, dark=False)
    for name, dark in zip(PICTURES, (False, True), strict=True):
        _ink(figure, dark=dark)
        figure.savefig(folder / name, metadata={"Software": None})  # the same bytes whatever the version's number
        figure.set_layout_engine("none")  # colours take no room: where everything lies is worked out once


def draw(
    title: str,
    roles: Sequence[str],
    blocks: Sequence[Mapping[str, Any]],
    total: Mapping[str, Any],
    dtype: str,
    *,
    dark: bool,
) -> Figure:
    """Four panels: norms by block, cosines between the experts, sign conflict by block, what survived by block.

    Args:
        title: of the method.
        roles: of the experts.
        blocks, total: figures as a manifest holds them.
        dtype: that the merge is stored in.
        dark: for dark pages.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), dpi=110, layout="constrained")
    panels = figure.subplots(2, 2)
    roles = [_plain(role) for role in roles]
    norms = {role: [block["norms"][i] for block in blocks] for i, role in enumerate(roles)}
    norms[_MERGED] = [block["merged_norm"] for block in blocks]
    conflict = {"sign conflict": [block.get("sign_conflict") or 0.0 for block in blocks]}
    survived = {"survived": [block["survived"] for block in blocks]}
    _lines(panels[0, 0], "Size of each change, by block", "Frobenius norm", norms)
    _cosines(figure, panels[0, 1], roles, total)
    _lines(panels[1, 0], "Entries that two experts pull apart", "share of changed entries", conflict)
    _lines(panels[1, 1], f"What survives storage in {_plain(dtype)}", "share of the merged change", survived)
    for axes in (panels[0, 0], panels[1, 0], panels[1, 1]):
        _block_axis(axes, [str(block["name"]) for block in blocks])
    figure.suptitle(f"{_plain(title, 80)}: {', '.join(roles[:8])}")
    _ink(figure, dark=dark)
    return figure


def _ink(figure: Figure, *, dark: bool) -> None:
    """Give everything that has no colour of its own the one of light or of dark pages."""
    ink, paper = ("#e8e8e8", "#16181d") if dark else ("#202020", "#ffffff")
    figure.set_facecolor(paper)
    for axes in figure.axes:
        axes.tick_params(colors=ink)
        if axes.get_label() == "<colorbar>":
            continue
        axes.set_facecolor(paper)
        for line in axes.lines:
            if line.get_label() == _MERGED:
                line.set_color(ink)
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set_color(ink)
        for spine in axes.spines.values():
            spine.set_color(ink)
        if legend := axes.get_legend():
            legend.get_lines()[-1].set_color(ink)
            for text in legend.get_texts():
                text.set_color(ink)
    figure.texts[0].set_color(ink)


def _lines(axes: Axes, title: str, label: str, series: dict[str, list[float]]) -> None:
    for index, (name, values) in enumerate(series.items()):
        merged = name == _MERGED
        axes.plot(
            values,
            label=name,
            color=_COLOURS[index % len(_COLOURS)],
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
        axes.legend(frameon=False, fontsize=8)


def _cosines(figure: Figure, axes: Axes, roles: Sequence[str], total: Mapping[str, Any]) -> None:
    labels = [*roles, _MERGED]
    rows = [[*row, merged] for row, merged in zip(total["cosines"], total["merged_cosines"], strict=True)]
    rows.append([*total["merged_cosines"], 1.0])
    numbers = [[math.nan if value is None else value for value in row] for row in rows]
    image = axes.imshow(numbers, vmin=-1, vmax=1, cmap="RdBu_r")
    for i, row in enumerate(numbers):
        for j, value in enumerate(row):
            shown = "" if math.isnan(value) else f"{value:.2f}"
            axes.text(j, i, shown, ha="center", va="center", color="#fff" if abs(value) > 0.6 else "#000")
    axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_title("Cosine between the changes, whole model", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.8)


def _block_axis(axes: Axes, names: list[str]) -> None:
    step = max(1, len(names) // 12)
    ticks = list(range(0, len(names), step))
    axes.set_xticks(ticks, [_tail(names[tick]) for tick in ticks], rotation=40, ha="right", fontsize=7)


def _tail(name: str) -> str:
    """The last two parts of a block's name, which is what tells blocks apart."""
    return _plain(".".join(name.split(".")[-2:])[-22:])


def _plain(text: object, longest: int = 30) -> str:
    """Text that matplotlib takes literally: a dollar would begin a formula."""
    return one_line(text, longest).replace("$", r"\$")
