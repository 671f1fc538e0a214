"""Merge a helpful, an honest and a harmless model into one.

    import hf_merge3h                      # gives merge_3h to PreTrainedModel and PeftModel

    model.merge_3h({"helpfulness": "me/helpful", "honesty": "me/honest", "harmlessness": "me/harmless"})
    peft_model.merge_3h(["helpful", "honest", "harmless"], adapter_name="balanced")
    hf_merge3h.merge("me/base", ["me/helpful", "me/honest", "me/harmless"], method="ties", density=0.3)

Importing this package imports neither torch nor transformers nor peft: names are loaded when first used, and
`merge_3h` is attached to the classes that are loaded, and by an import hook to those that come later.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import integrations
from .errors import MergeError, MergeWarning, OutputError, RequestError, SourceError

if TYPE_CHECKING:
    from .engine.doors import merge
    from .engine.forecast import plan_facts
    from .engine.inspect import inspect
    from .engine.recipes import merge_recipe, plan_recipe
    from .engine.report import MergeReport
    from .engine.spectra import spectra
    from .engine.verify import verify
    from .evaluation.run import evaluate_3h
    from .judges import CallableJudge, PipelineJudge, PrecomputedJudge, RuleJudge
    from .lab.mixing import mix_data
    from .linalg.low_rank import LowRank
    from .manifest import load_manifest
    from .methods.linear import preference_grid
    from .metrics import metric_path
    from .metrics.refusal_rule import refuses
    from .publishing.card import write_card
    from .publishing.hub import publish
    from .publishing.licenses import license_verdict
    from .recipes.mergekit import recipe_parameters
    from .recipes.read import read_recipe
    from .registry import Method, PerExpert, Range, get_method, list_methods, method

__version__ = "0.1.0"

_HOMES = {
    "merge": "engine.doors",
    "merge_recipe": "engine.recipes",
    "evaluate_3h": "evaluation.run",
    "read_recipe": "recipes.read",
    "recipe_parameters": "recipes.mergekit",
    "plan_recipe": "engine.recipes",
    "plan_facts": "engine.forecast",
    "spectra": "engine.spectra",
    "load_manifest": "manifest",
    "write_card": "publishing.card",
    "publish": "publishing.hub",
    "verify": "engine.verify",
    "inspect": "engine.inspect",
    "license_verdict": "publishing.licenses",
    "MergeReport": "engine.report",
    "LowRank": "linalg.low_rank",
    "PipelineJudge": "judges",
    "CallableJudge": "judges",
    "PrecomputedJudge": "judges",
    "RuleJudge": "judges",
    "preference_grid": "methods.linear",
    "mix_data": "lab.mixing",
    "metric_path": "metrics",
    "refuses": "metrics.refusal_rule",
    "Method": "registry",
    "PerExpert": "schema",
    "Range": "schema",
    "get_method": "registry",
    "list_methods": "registry",
    "method": "registry",
}

__all__ = [  # noqa: RUF022 - in the order in which a reader meets them
    "merge",
    "merge_recipe",
    "evaluate_3h",
    "read_recipe",
    "recipe_parameters",
    "plan_recipe",
    "plan_facts",
    "spectra",
    "load_manifest",
    "write_card",
    "publish",
    "verify",
    "inspect",
    "license_verdict",
    "MergeReport",
    "list_methods",
    "get_method",
    "method",
    "Method",
    "PerExpert",
    "Range",
    "LowRank",
    "preference_grid",
    "mix_data",
    "PipelineJudge",
    "CallableJudge",
    "PrecomputedJudge",
    "RuleJudge",
    "metric_path",
    "refuses",
    "MergeError",
    "MergeWarning",
    "OutputError",
    "RequestError",
    "SourceError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


integrations.install()
