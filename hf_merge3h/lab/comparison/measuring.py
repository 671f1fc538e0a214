"""Merging and measuring in one step: a merged model is asked and dropped, unless it is to be kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import MergeWarning
from ...evaluation.suite import H
from .bases import base_folder
from .precision import is_short, products, round_products
from .work import Job

MODEL = "model"  # what the measured model is called in its own run of the evaluation
RUN = "run"
#: prompts at a time in bfloat16 on a CPU, where rows cost less the more there are
_AT_ONCE = 32


def measure(job: Job) -> dict[str, Any]:
    """Ask one model the suite: the base, an expert, a mixture's model, or a merge."""
    settings = job.settings
    source: Any
    facts: dict[str, Any] = {}
    if settings["variant"] is not None:
        variant = dict(settings["variant"])
        tuned = settings.get("tuned")
        if tuned:
            best = json.loads((job.inputs[tuned] / "best.json").read_text(encoding="utf-8"))
            variant["parameters"] = {**variant["parameters"], **best["parameters"]}
        source, facts = merged(job, variant)
        if settings.get("keep"):
            source.save_pretrained(str(job.out / "model"))
    elif settings["of"]:
        source = located(job, settings["of"])
        if (Path(str(source)) / "adapter_config.json").is_file():
            source = (base_folder(job.step.paths["base"]), str(source))
    else:
        source = base_folder(job.step.paths["base"])
    ask(job, source, job.out / RUN, settings["limit"])
    return facts


def located(job: Job, source: Mapping[str, str]) -> str:
    """The folder of a model that a step made, or where one that exists is."""
    return str(job.inputs[source["step"]]) if "step" in source else job.step.paths[source["given"]]


def live_base(job: Job) -> Any:
    """The comparison's base in float32, on a GPU where there is one."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base_folder(job.step.paths["base"]), dtype=torch.float32)
    return model.to("cuda") if torch.cuda.is_available() else model


def merged(job: Job, variant: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A live merge of the job's experts by a variant, and what its report says of ranks, norms and conflicts."""
    import time
    import warnings

    import hf_merge3h  # noqa: F401  attaches merge_3h

    from .controls import registered

    settings = job.settings
    model = live_base(job)
    experts = {role: located(job, source) for role, source in settings["experts"].items()}
    start = time.perf_counter()
    with registered(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MergeWarning)
        model.merge_3h(
            experts, method=variant["method"], seed=settings["seed"], progress=False, **variant["parameters"]
        )
    took = time.perf_counter() - start
    told = model.merge_report.to_dict()
    (job.out / "merge.json").write_text(json.dumps(told, ensure_ascii=False) + "\n", encoding="utf-8")
    said = [str(each.message) for each in caught if issubclass(each.category, MergeWarning)]
    return model, {"merge_seconds": took, "variant": dict(variant), "warnings": said}


def ask(job: Job, source: Any, out: Path, limit: int | None) -> Any:
    """Run a suite on one model; the training questions of all experts, as far as recorded, are left out.

    In bfloat16 a live model's linear layers stay rounded: it is asked and dropped.
    """
    import torch
    from transformers import AutoTokenizer

    from ...evaluation.models import opened
    from ...evaluation.run import evaluate_3h

    settings = job.settings
    precision = settings.get("precision", "float32")
    tokenizer = AutoTokenizer.from_pretrained(base_folder(job.step.paths["base"]))
    trained = [job.inputs["questions"]] if "questions" in job.inputs else []
    trained += [Path(job.step.paths[role]) for role in H if role in job.step.paths]
    with (
        opened(MODEL, source, tokenizer=tokenizer, dtype=torch.float32) as one,
        products(precision),
    ):
        if is_short(precision):
            round_products(one.model)
        return evaluate_3h(
            {MODEL: one.model}, job.step.paths["suite"], datasets=settings.get("datasets"), limit=limit,
            seed=settings["seed"], out=out, tokenizer=tokenizer, leave_out=trained, save_report=False, progress=False,
            batch_size=_AT_ONCE if is_short(precision) and not torch.cuda.is_available() else None,
        )  # fmt: skip


def stage(job: Job) -> dict[str, Any]:
    """What one stage of a chain added, put on the base: W0 + (W_t - W_(t-1)); exact, by task arithmetic."""
    import hf_merge3h

    settings = job.settings
    base = base_folder(job.step.paths["base"])
    lora = settings["kind"] == "lora"
    now, before = (
        f"{base}+{path}" if lora else str(path) for path in map(job.inputs.get, (settings["now"], settings["before"]))
    )
    recipe: dict[str, Any] = {
        "merge_method": "task_arithmetic",
        "base_model": base,
        "models": [
            {"model": now, "parameters": {"weight": 1.0}},
            {"model": before, "parameters": {"weight": -1.0}},
        ],
    }
    recipe |= {"out": "adapter"} if lora else {"dtype": "float32"}
    hf_merge3h.merge_recipe(recipe, job.out / "model", overwrite=True, progress=False)
    for path in (job.out / "model").iterdir():
        path.rename(job.out / path.name)
    (job.out / "model").rmdir()
    return {}
