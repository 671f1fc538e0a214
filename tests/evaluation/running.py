"""Runs of the tiny suite, for the tests of the runner."""

from __future__ import annotations

from pathlib import Path

import hf_merge3h
from hf_merge3h.evaluation.store import Store

FAST = {"progress": False, "device": "cpu"}


def rows(out: Path) -> dict[str, dict[str, dict]]:
    """Everything on disk but which model was asked."""
    return {str(path.relative_to(out)): Store(path).rows for path in sorted((out / "items").rglob("*.jsonl"))}


def evaluate(models, suite, out, **options):
    return hf_merge3h.evaluate_3h(models, suite, out=out, **{**FAST, **options})
