"""Loss curves of the demo's experts, drawn for their cards: `python -m hf_merge3h.lab.curves`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .. import demo

#: For light and dark pages: file, paper, ink, line.
THEMES = (("loss-light.png", "#ffffff", "#202020", "#0072B2"), ("loss-dark.png", "#16181d", "#e8e8e8", "#56B4E9"))
_SPAN = 5  # steps that the thick line averages, as the cards' text does


def draw(folder: Path) -> None:
    """Draw an expert's loss, step by step and as a running mean, beside its card."""
    from matplotlib.figure import Figure

    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    losses: Sequence[float] = training["loss_curve"]
    means = [sum(losses[place - _SPAN : place]) / _SPAN for place in range(_SPAN, len(losses) + 1)]
    for file, paper, ink, line in THEMES:
        figure = Figure(figsize=(7, 2.6), dpi=100, facecolor=paper, layout="constrained")
        axes = figure.subplots()
        axes.plot(range(1, len(losses) + 1), losses, color=line, linewidth=0.8, alpha=0.5, label="each step")
        axes.plot(range(_SPAN, len(losses) + 1), means, color=line, linewidth=2, label=f"mean of {_SPAN} steps")
        axes.set(xlabel="step", ylabel="training loss", title=training["expert"], ylim=(0, None), facecolor=paper)
        axes.tick_params(colors=ink)
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set_color(ink)
        for spine in axes.spines.values():
            spine.set_color(ink)
        axes.legend(frameon=False, labelcolor=ink, fontsize=8)
        figure.savefig(folder / file, metadata={"Software": None})


if __name__ == "__main__":
    for place in demo.expert_paths().values():
        draw(place)
