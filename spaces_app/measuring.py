"""A quick evaluation of a merge beside its base and experts, within a time that a visitor waits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import places
from voices import MOST_SPOKEN, Speaker

import hf_merge3h

#: Seconds that a quick evaluation may take.
SECONDS = float(os.environ.get("SPACE_EVALUATION_SECONDS", "120"))
#: Of the suite 3h-offline: at least one for each H, and those that write the shortest answers.
DATASETS = ("instructions", "truthfulqa", "strongreject", "safe_lookalikes")
FIRST, MOST = 2, 24  # questions a data set: to see how quick this machine is, and at most
H = ("helpfulness", "honesty", "harmlessness")


def sources(speakers: Sequence[Speaker]) -> dict[str, Any]:
    """What the library is to evaluate: name -> model, or adapter on the model named base.

    Raises:
        ValueError: a model that is too large to answer here.
    """
    found: dict[str, Any] = {}
    for speaker in speakers:
        weights = places.weights_of(speaker.model)
        if weights > MOST_SPOKEN:
            raise ValueError(f"{places.size(weights)} of weights are too much to ask questions here")
        found[speaker.label] = places.place(speaker.adapter or speaker.model)
    return found


def measure(
    speakers: Sequence[Speaker],
    folder: Path,
    say: Callable[[float, str], None],
    *,
    seconds: float = SECONDS,
    evaluate: Callable[..., Any] | None = None,
) -> Mapping[str, Any]:
    """Ask all of them a few questions of each data set, as many as fit into the time.

    Args:
        speakers: base, experts and `merged`.
        folder: new; the items lie there.
        say: told a share of one, and what is being done.
        seconds: that it may take.
        evaluate: `hf_merge3h.evaluate_3h`, if left out.

    Returns:
        The `evaluation` of a manifest.
    """
    evaluate = evaluate or hf_merge3h.evaluate_3h
    models, start = sources(speakers), time.monotonic()
    roles = {name: name for name in models if name in H}
    options: dict[str, Any] = {
        "datasets": list(DATASETS), "out": folder, "roles": roles, "skip_unreachable": True, "progress": False,
    }  # fmt: skip
    say(0.05, f"Asking {len(models)} models {FIRST} questions of each data set")
    report = evaluate(models, "3h-offline", limit=FIRST, **options)
    spent = time.monotonic() - start
    # What is done is not asked again; loading the models is in the first time, so this rather overestimates.
    more = min(MOST, int(FIRST * (seconds - spent) / max(spent, 1e-9)))
    if more > FIRST:
        say(min(0.9, spent / seconds), f"Asking {more} questions of each: about {more / FIRST * spent:.0f} s")
        report = evaluate(models, "3h-offline", limit=more, **options)
    return report.to_dict()
