"""The report of a live merge: made, warned of, and left at the model."""

from __future__ import annotations

import importlib.metadata
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..errors import MergeWarning
from ..models.types import Expert
from .measures import TensorReport
from .report import MergeReport
from .request import Request
from .saved import fingerprint


def report_of(
    request: Request, experts: Sequence[Expert], base: str, tensors: Sequence[TensorReport], start: float
) -> MergeReport:
    """What is known of a merge once all tensors are merged; its output and origins are filled in by the door."""
    method = request.method
    return MergeReport(
        method=method.name,
        title=method.shown_title,
        paper=method.paper,
        notice=method.reconstruction,
        roles=request.roles,
        sources=tuple(expert.label for expert in experts),
        weights=request.weights,
        base=base,
        parameters=dict(request.parameters),
        seed=request.seed,
        device=str(request.device),
        tensors=tuple(tensors),
        output={},
        versions={name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")},
        seconds=time.perf_counter() - start,
        orthogonal=method.matrix_only,
    )


def dtype_names(dtypes: Iterable[torch.dtype]) -> str:
    """Names of dtypes as a report shows them."""
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def warn(report: MergeReport, notes: Sequence[str] = ()) -> None:
    """Say what a careful user should know, before anything is changed: warnings may be errors to them."""
    report.warnings = [*notes, *report.find_warnings()]
    for warning in report.warnings:
        warnings.warn(warning, MergeWarning, stacklevel=6)


def leave(model: Any, report: MergeReport, start: float) -> None:
    """Leave the report at the model, with what its weights look like now."""
    report.seconds = time.perf_counter() - start
    adapter = report.output.get("adapter")
    report.fingerprint = fingerprint(model, adapter)
    if adapter is not None:
        model.merged_adapters = {**vars(model).get("merged_adapters", {}), adapter: report}
    model.merge_report = report
