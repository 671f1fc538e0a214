"""Each method's own scale, searched on the development split with the same number of trials for all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MergeError
from ...evaluation.compare import Board
from ...evaluation.report import Report
from ...registry import get_method
from .boards import board_of, values_of
from .config import Variant
from .measuring import MODEL, RUN, ask, live_base, merged
from .work import Job

if TYPE_CHECKING:
    from torch import Tensor

TRIALS = "trials.json"
_RANDOM = 4  # trials that are drawn before the search learns from them


def parameter_of(variant: Variant) -> str | None:
    """What is tuned: the factor of the merged task vector; None where a method has none (averages, spheres)."""
    names = {parameter.name for parameter in get_method(variant.method).parameters}
    return "scale" if "scale" in names else None


def tune(job: Job) -> dict[str, Any]:
    """Search one parameter by optuna's TPE; the folder holds all trials and the best one.

    What is maximised is the balance: the mean over the H's of what the merge recovers of each expert's gain, an H
    counting for 1 at most, so that an excess on one H does not pay for a loss on another. Measured on the items of the
    development split alone.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = job.settings
    study = optuna.create_study(direction="maximize")
    spread: dict[str, Any] = {
        settings["parameter"]: optuna.distributions.FloatDistribution(settings["low"], settings["high"])
    }
    trials = _done(job.out / TRIALS)
    for one in trials:
        study.add_trial(optuna.trial.create_trial(params=one["parameters"], distributions=spread, value=one["balance"]))
    known = {name: values_of(Report.read(folder / RUN)) for name, folder in job.inputs.items() if _measured(folder)}
    change = change_of(job) if len(trials) < settings["trials"] else {}
    for number in range(len(trials), settings["trials"]):
        # a seed for each trial: one that was killed is asked for again with the same scale
        study.sampler = optuna.samplers.TPESampler(seed=settings["seed"] + number, n_startup_trials=_RANDOM)
        trial = study.ask(spread)
        model = along(live_base(job), change, trial.params[settings["parameter"]])
        report = ask(job, model, job.out / f"trial-{number}", settings["limit"])
        told = balance(known, values_of(report), report.facts["datasets"], settings["roles"])
        study.tell(trial, told["balance"])
        trials.append({"parameters": trial.params, **told})
        (job.out / TRIALS).write_text(json.dumps(trials, indent=1) + "\n", encoding="utf-8")
    best = max(trials, key=lambda one: one["balance"])
    (job.out / "best.json").write_text(json.dumps(best, indent=1) + "\n", encoding="utf-8")
    return {"best": best, "trials": len(trials)}


def change_of(job: Job) -> dict[str, Tensor]:
    """Parameter's name -> what the merge at scale 1 adds to the base: any other scale is a multiple of it."""
    import torch

    settings = job.settings
    variant = dict(settings["variant"])
    variant["parameters"] = {**variant["parameters"], settings["parameter"]: 1.0}
    model, _ = merged(job, variant)
    base = dict(live_base(job).named_parameters())
    with torch.no_grad():
        return {name: tensor - base[name] for name, tensor in model.named_parameters()}


def along(model: Any, change: Mapping[str, Tensor], scale: float) -> Any:
    """The base moved by a multiple of a change."""
    import torch

    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.add_(change[name], alpha=scale)
    return model


def _measured(folder: Path) -> bool:
    return (folder / RUN).is_dir()


def _done(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def balance(
    known: Mapping[str, Mapping[str, Mapping[str, float]]],
    merge: Mapping[str, Mapping[str, float]],
    datasets: Mapping[str, Any],
    roles: Mapping[str, str],
) -> dict[str, Any]:
    """Mean over the H's of the recovery, at most 1 each, and the recoveries themselves.

    Args:
        known: step -> data set -> item -> value; of the base and the experts.
        merge: the same of the merged model.
        datasets: what the suite says of each data set.
        roles: `base` or an H -> step.
    """
    board = board_of({**{role: known[step] for role, step in roles.items()}, MODEL: merge}, datasets)
    found = {h: recovered(board, h) for h in board.datasets if h in roles}
    return {"balance": sum(min(one, 1.0) for one in found.values()) / len(found), "recovery": found}


def recovered(board: Board, h: str) -> float:
    """(merged - base) / (expert - base), a point value."""
    base, expert, model = (float(board.of(h, name)[0]) for name in ("base", h, MODEL))
    if expert <= base:
        raise MergeError(f"the {h} expert is no better than the base on the development split: nothing to recover")
    return (model - base) / (expert - base)
