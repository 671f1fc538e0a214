"""What a merge did to the weights, as pictures.

They are SVG inside of the page, so that they follow the page's theme: colours are CSS variables of `theme.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from drawing import EXPERTS, INK, PANEL, draw_svg, line, lines, looks, short, square
from figures import Chart
from visits import Merge


def charts_of(merge: Merge) -> list[Chart]:
    """All pictures of a merge; none where it had no base, and so no changes to look at."""
    tensors = [each for each in merge.tensors if len(each.gram) == len(merge.roles) + 1]
    if not tensors:
        return []
    layers, kinds = by_layer(tensors), by_kind(tensors)
    found = [_norms(merge, layers), _kinds(merge, kinds), _cosines(merge, tensors), _conflict(layers)]
    found += [_survived(layers), _spectra(merge)]
    return [chart for chart in found if chart is not None]


def by_layer(tensors: Sequence[Any]) -> dict[str, list[Any]]:
    """Tensors by layer: its number, or the name of what is no layer."""
    found: dict[str, list[Any]] = {}
    for each in tensors:
        number = re.search(r"\.(\d+)\.", each.name)
        found.setdefault(number[1] if number else each.name.rsplit(".", 2)[-2], []).append(each)
    return dict(
        sorted(found.items(), key=lambda item: (not item[0].isdigit(), int(item[0]) if item[0].isdigit() else 0))
    )


def by_kind(tensors: Sequence[Any]) -> dict[str, list[Any]]:
    """Tensors by module type: the last part of the module's name (q_proj, up_proj, ...)."""
    found: dict[str, list[Any]] = {}
    for each in tensors:
        found.setdefault(each.name.removesuffix(".weight").rsplit(".", 1)[-1], []).append(each)
    return found


def norms_of(tensors: Sequence[Any]) -> list[float]:
    """Frobenius norm of each expert's change and, last, of the merged one, over some tensors."""
    size = len(tensors[0].gram)
    return [math.sqrt(max(0.0, math.fsum(each.gram[i][i] for each in tensors))) for i in range(size)]


def cosines_of(tensors: Sequence[Any]) -> list[list[float]]:
    """Cosines between the changes, the merged one last."""
    size, norms = len(tensors[0].gram), norms_of(tensors)
    inner = [[math.fsum(each.gram[i][j] for each in tensors) for j in range(size)] for i in range(size)]
    return [
        [inner[i][j] / (norms[i] * norms[j]) if norms[i] * norms[j] else math.nan for j in range(size)]
        for i in range(size)
    ]


def conflict_of(tensors: Sequence[Any]) -> float | None:
    """Share of changed entries that two experts change in opposite directions, mean over the entries."""
    known = [(each.sign_conflict, each.numbers) for each in tensors if each.sign_conflict is not None]
    total = sum(count for _, count in known)
    return sum(share * count for share, count in known) / total if total else None


def survived_of(tensors: Sequence[Any]) -> float:
    """Share of the merged change that storing it left."""
    norm = norms_of(tensors)[-1]
    lost = math.fsum(((1 - each.survived) ** 2) * max(0.0, each.gram[-1][-1]) for each in tensors)
    return 1 - math.sqrt(lost) / norm if norm else 1.0


def _norms(merge: Merge, layers: Mapping[str, list[Any]]) -> Chart:
    names = [*merge.roles, "merged"]
    rows = [(layer, *norms_of(tensors)) for layer, tensors in layers.items()]
    series = {name: [row[place] for row in rows] for place, name in enumerate(names, start=1)}
    return Chart(
        "norms_by_layer",
        "How much each layer changed",
        "Each line is one expert's change from the base (Frobenius norm); the thick line is the merge. Where the merge "
        "runs far above all experts it may overshoot; where it runs far below, they cancelled each other out.",
        lines(list(layers), series, "layer", "size of the change"),
        ("layer", *names),
        tuple(rows),
    )


def _kinds(merge: Merge, kinds: Mapping[str, list[Any]]) -> Chart:
    names = [*merge.roles, "merged"]
    rows = [(kind, *norms_of(tensors)) for kind, tensors in kinds.items()]

    def draw(axes: Any) -> None:
        height, look = 0.8 / len(names), looks(names)
        for place, name in enumerate(names):
            merged = name == "merged"
            axes.barh(
                [at + place * height for at in range(len(rows))], [row[place + 1] for row in rows], height * 0.9,
                label=name, color=INK if merged else EXPERTS[look[name]], edgecolor="none",
                hatch="" if merged else ("xxx", "///", "...", "\\\\\\")[look[name]],
            )  # fmt: skip
        axes.set_yticks([at + 0.4 - height / 2 for at in range(len(rows))], [row[0] for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel("size of the change")
        axes.legend(frameon=False, fontsize=8)

    return Chart(
        "norms_by_module",
        "Which kinds of modules changed",
        "Bars are sizes of the changes over all layers, by kind of module. Attention (q, k, v, o) steers what a model "
        "looks at, the MLP (gate, up, down) what it says about it.",
        draw_svg(draw, (PANEL[0], max(PANEL[1], 0.52 * len(rows) + 0.7))),
        ("module", *names),
        tuple(rows),
    )


def _cosines(merge: Merge, tensors: Sequence[Any]) -> Chart:
    names, grid = [*merge.roles, "merged"], cosines_of(tensors)

    def draw(axes: Any) -> None:
        for i, row in enumerate(grid):
            for j, value in enumerate(row):
                strength = 0.0 if math.isnan(value) else min(1.0, abs(value))
                colour = EXPERTS[0] if value >= 0 else EXPERTS[1]
                axes.add_patch(square(j, i, colour, 0.55 * strength))
                axes.text(j + 0.5, i + 0.5, "-" if math.isnan(value) else f"{value:+.2f}", ha="center", va="center")
        axes.set(xlim=(0, len(names)), ylim=(len(names), 0), aspect="equal")
        axes.set_xticks([at + 0.5 for at in range(len(names))], names, rotation=25, ha="right")
        axes.set_yticks([at + 0.5 for at in range(len(names))], names)
        axes.tick_params(length=0)
        axes.grid(visible=False)

    return Chart(
        "cosines",
        "Do the experts pull in the same direction?",
        "Cosines between the changes over the whole model: +1 the same direction, 0 unrelated, -1 opposite. The last "
        "row says how much of each expert's direction the merge kept.",
        draw_svg(draw, (PANEL[0], 4.0)),
        ("", *names),
        tuple((name, *row) for name, row in zip(names, grid, strict=True)),
    )


def _conflict(layers: Mapping[str, list[Any]]) -> Chart | None:
    rows = [(layer, share) for layer, tensors in layers.items() if (share := conflict_of(tensors)) is not None]
    if not rows:
        return None  # a single expert has nobody to disagree with
    return Chart(
        "sign_conflict",
        "Where experts contradict each other",
        "Share of the changed entries that two experts push in opposite directions. For unrelated experts it is about "
        "a half with two and three quarters with three; lower means that they agree.",
        lines(
            [row[0] for row in rows], {"in conflict": [row[1] for row in rows]}, "layer", "share of entries", share=True
        ),
        ("layer", "share in conflict"),
        tuple(rows),
    )


def _survived(layers: Mapping[str, list[Any]]) -> Chart:
    rows = [(layer, survived_of(tensors)) for layer, tensors in layers.items()]
    return Chart(
        "survived",
        "What survived storage",
        "Share of the merged change that is left after rounding to the stored dtype. At 1 nothing was lost; bfloat16 "
        "can swallow a third of a small change, and float32 or an adapter are the remedy.",
        lines([row[0] for row in rows], {"survived": [row[1] for row in rows]}, "layer", "share left", share=True),
        ("layer", "share that survived"),
        tuple(rows),
    )


def _spectra(merge: Merge) -> Chart | None:
    shown = dict(list(merge.spectra.items())[:4])
    if not shown:
        return None

    def draw(axes: Any) -> None:
        for name, place in looks(next(iter(merge.spectra.values()))).items():
            for number, spectrum in enumerate(shown.values()):
                floor = 1e-4 * max((value for values in spectrum.values() for value in values), default=0.0)
                own = [value for value in spectrum.get(name, []) if value > floor]
                line(axes.flat[number], range(1, len(own) + 1), own, place, name)
        for number, name in enumerate(shown):
            panel = axes.flat[number]
            panel.set_yscale("log")
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # powers in mathematical type take seconds
            panel.yaxis.set_minor_formatter(lambda *_: "")
            panel.set_title(short(name), fontsize=9)
        for panel in list(axes.flat)[len(shown) :]:
            panel.set_visible(False)
        axes.flat[0].legend(frameon=False, fontsize=7)
        axes.flat[0].figure.supxlabel("direction, strongest first", fontsize=9)
        axes.flat[0].figure.supylabel("singular value (log)", fontsize=9)

    rows = []
    for name, spectrum in merge.spectra.items():
        for who, values in spectrum.items():
            energy = math.fsum(value * value for value in values)
            total, needed = 0.0, 0
            while needed < len(values) and total < 0.9 * energy:
                total += values[needed] ** 2
                needed += 1
            rows.append((name, who, values[0] if values else 0.0, needed, math.sqrt(energy)))
    return Chart(
        "spectra",
        "How many directions a change has",
        "Singular values of the changes, for matrices of a middle layer. A steep line is a change of few directions. "
        "A merge that keeps all its experts has about as many directions as they have together.",
        draw_svg(draw, (PANEL[0], 2.1 * math.ceil(len(shown) / 2) + 0.5), (math.ceil(len(shown) / 2), 2)),
        ("matrix", "who", "greatest singular value", "directions for 90 % of the energy", "size"),
        tuple(rows),
    )


def small_multiples(
    parameter: str, values: Sequence[float], merges: Sequence[tuple[Sequence[str], Sequence[Any]]]
) -> Chart:
    """A sweep: how size, directions, conflict and losses of the merge change with one parameter."""
    roles = merges[0][0]
    rows = []
    for value, (_, tensors) in zip(values, merges, strict=True):
        cosines, norms = cosines_of(tensors)[-1][:-1], norms_of(tensors)
        rows.append((value, norms[-1], norms[-1] / max(norms[:-1]), *cosines, survived_of(tensors)))
    panels = {
        "size of the change": {"merged": 1},
        "size / largest expert's": {"merged": 2},
        "cosine with each expert": {role: 3 + place for place, role in enumerate(roles)},
        "share that survived": {"survived": 3 + len(roles)},
    }

    def draw(axes: Any) -> None:
        for panel, (title, columns) in zip(axes.flat, panels.items(), strict=True):
            look = looks(columns)
            for name, column in columns.items():
                line(panel, values, [row[column] for row in rows], look[name], name)
                panel.plot(values, [row[column] for row in rows], "o", color=INK, markersize=3)
            panel.set_title(title, fontsize=9)
            if len(columns) > 1:
                panel.legend(frameon=False, fontsize=7)
                panel.set_ylim(-0.05 if min(row[3] for row in rows) >= 0 else -1.05, 1.05)
            elif title.startswith("share"):
                panel.set_ylim(0, 1.05)
            else:
                panel.set_ylim(0, 1.15 * max(row[next(iter(columns.values()))] for row in rows) or 1)
        axes.flat[0].figure.supxlabel(parameter, fontsize=9)

    return Chart(
        f"sweep_{re.sub(r'[^a-z_]', '', parameter)}",
        f"Sweep over {parameter}",
        f"The same recipe at {len(values)} values of {parameter}. A good value keeps the cosines of all experts high "
        "together, at a size that does not outgrow the largest expert's by much.",
        draw_svg(draw, (PANEL[0] * 1.15, 4.6), (2, 2)),
        (parameter, "merged size", "over largest expert", *(f"cosine with {role}" for role in roles), "survived"),
        tuple(rows),
    )
