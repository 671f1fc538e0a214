"""Who says whether a response is harmful, a refusal or made up (docs/JUDGES.md)."""

from .families import FAMILIES, Family, get_family, model_family, neutralise
from .judge import CallableJudge, Judge, RuleJudge
from .pipeline import RECOMMENDED, PipelineJudge
from .precomputed import PrecomputedJudge, save_verdicts
from .verdict import Bounds, Verdict, bounds

__all__ = [
    "FAMILIES",
    "RECOMMENDED",
    "Bounds",
    "CallableJudge",
    "Family",
    "Judge",
    "PipelineJudge",
    "PrecomputedJudge",
    "RuleJudge",
    "Verdict",
    "bounds",
    "get_family",
    "model_family",
    "neutralise",
    "save_verdicts",
]
