"""A quick evaluation of a merge beside its base and experts, within a time that a visitor waits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import places
from voices import MOST_SPOKEN, Speaker

import hf_merge3h

#: Seconds that a quick evaluation may take, and what of them is left for scoring and the report.
SECONDS = float(os.environ.get("SPACE_EVALUATION_SECONDS", "120"))
SCORING = 5
#: Of the suite 3h-offline: for each H one that a few seconds are enough for, and those that write the shortest answers.
DATASETS = ("gsm8k_likelihood", "instructions", "truthfulqa", "strongreject", "safe_lookalikes")
MOST = 24  # questions a data set
SHORT = {"strongreject": 24, "safe_lookalikes": 24}  # tokens of an answer, in which a refusal shows
H = ("helpfulness", "honesty", "harmlessness")


def check(speakers: Sequence[Speaker]) -> None:
    """Refuse what cannot be asked, before anything is loaded.

    Raises:
        ValueError: a model that is too large to answer here.
    """
    for speaker in speakers:
        weights = places.weights_of(speaker.model)
        if weights > MOST_SPOKEN:
            raise ValueError(f"{places.size(weights)} of weights are too much to ask questions here")


def measure(
    speakers: Sequence[Speaker],
    models: Mapping[str, Any],
    tell: Callable[[float, str], None],
    *,
    seconds: float = SECONDS,
) -> Mapping[str, Any]:
    """Ask all of them a few questions of each data set, as many as fit into the time.

    Args:
        speakers: base, experts and `merged`.
        models: label -> what the library is to evaluate.
        tell: told a share of one, and what is being done; what it raises ends the evaluation.
        seconds: that it may take.

    Returns:
        The `evaluation` of a manifest.
    """
    folders = [places.place(each.adapter or each.model) for each in speakers]
    report = hf_merge3h.evaluate_3h(
        models,
        "3h-offline",
        limit=MOST,
        max_seconds=max(1.0, seconds - SCORING),
        datasets=DATASETS,
        shorten={name: tokens for name, tokens in SHORT.items() if name in DATASETS},
        roles={each.label: each.label for each in speakers if each.label in H},
        leave_out=[folder for folder in folders if Path(folder).is_dir()],
        skip_unreachable=True,
        progress=lambda share, text: tell(0.95 * share, text),
    )
    return report.to_dict()


def told(evaluation: Mapping[str, Any]) -> str:
    """How much was asked, in words."""
    asked = "; ".join(f"{each['n']} of {each.get('title') or each['dataset']}" for each in evaluation["datasets"])
    text = f"Questions that all models answered: {asked}."
    if evaluation.get("stopped"):
        text += f" More did not fit into the {SECONDS:.0f} s that a quick evaluation may take."
    left = [each["dataset"] for each in evaluation["not_evaluated"] if each["dataset"] in DATASETS]
    return text + (f" Left out: {', '.join(left)}; the card says why." if left else "")
