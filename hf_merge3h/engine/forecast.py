"""What a plan would do, told before it is done: tensors, bytes, memory, seconds."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from ..models.weights.writer import nbytes
from .stream_plan import Step, StreamPlan, peak

if TYPE_CHECKING:
    from .adapter_recipe import AdapterPlan

#: Guesses at how fast one core walks through inputs, bytes of float32 a second: entry by entry; in parts, with a look
#: ahead; whole; and what measuring and hashing add (the first two and the last from the table of all streamed merges at
#: 1.1B in docs/LOG.md). Decompositions count their operations too. Only `seconds` needs them.
_ENTRYWISE, _PARTS, _WHOLE, _MEASURED, _OPERATIONS = 4e9, 8e8, 1.5e8, 3.3e9, 2e10
_SVD = 20  # operations of a decomposition, times m n min(m, n)


def plan_facts(plan: StreamPlan | AdapterPlan, *, diagnostics: bool = True) -> dict[str, Any]:
    """What would happen, as plain data.

    Args:
        plan: what `plan_recipe` gave.
        diagnostics: the merge measures and hashes, which takes its time.
    """
    if not isinstance(plan, StreamPlan):
        return _adapter_facts(plan)
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for step in plan.steps:
        key = (step.job.method, step.spec.shape, str(step.spec.dtype), len(step.inputs))
        entry = groups.setdefault(
            key,
            {
                "method": step.job.method,
                "shape": list(step.spec.shape),
                "dtype": str(step.spec.dtype).removeprefix("torch."),
                "experts": len(step.inputs),
                "tensors": 0,
                "bytes_read": 0,
                "bytes_written": 0,
                "peak_memory": peak(step),
                "seconds": 0.0,
            },
        )
        entry["tensors"] += 1
        entry["bytes_read"] += step.bytes_read
        entry["bytes_written"] += nbytes(step.spec)
        entry["seconds"] += _seconds(step, diagnostics)
    for entry in groups.values():
        entry["seconds"] = round(entry["seconds"], 2)
    return {
        "recipe": plan.recipe.label,
        "kind": "weights",
        "models": [model.label for model in plan.models],
        "groups": list(groups.values()),
        "tensors": len(plan.specs),
        "bytes_read": plan.bytes_read,
        "bytes_written": plan.bytes_written,
        "bytes_downloaded": plan.bytes_absent,
        "peak_memory": plan.peak_memory,
        "seconds": round(sum(_seconds(step, diagnostics) for step in plan.steps), 1),
        "warnings": list(plan.recipe.warnings),
        "device": str(plan.device),
        "layers": plan.layers if plan.layers is not None else plan.main.layers,
        "vocabulary": None if plan.vocabulary is None else plan.vocabulary.rows,
    }


def _adapter_facts(plan: AdapterPlan) -> dict[str, Any]:
    """The same of a merge of adapters."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for spec in plan.specs.values():
        entry = groups.setdefault((spec.shape,), {"tensors": 0})
        entry.update(method=plan.job.method, shape=list(spec.shape), experts=len(plan.adapters))
        entry["tensors"] += 1
    largest = max((math.prod(spec.shape) for spec in plan.specs.values()), default=0)
    return {
        "recipe": plan.recipe.label,
        "kind": "adapter",
        "models": [adapter.label for adapter in plan.adapters],
        "groups": list(groups.values()),
        "tensors": len(plan.specs),
        "bytes_read": plan.bytes_read,
        "bytes_written": plan.bytes_written,
        "peak_memory": 2 * plan.bytes_read + 4 * largest * (len(plan.adapters) + 2),
        "warnings": list(plan.recipe.warnings),
        "device": str(plan.device),
    }


def _seconds(step: Step, measured: bool) -> float:
    """A guess, on all cores of this machine."""
    cores, numbers = os.cpu_count() or 1, math.prod(step.spec.shape)
    walked = 4.0 * numbers * (len(step.inputs) + 2)
    found = walked / _MEASURED if measured else 0.0
    if step.request is None or step.request.method.elementwise:
        found += walked / _ENTRYWISE
    elif step.group is not None and step.group.spectral:
        operations = _SVD * len(step.inputs) * numbers * min(step.spec.shape[-2:])
        found += walked / _WHOLE + operations / _OPERATIONS
    else:
        found += walked / (_WHOLE if step.request.method.parts is None else _PARTS)
    return found / cores


def plan_text(plan: StreamPlan | AdapterPlan, *, diagnostics: bool = True) -> str:
    """The same, to be read."""
    facts = plan_facts(plan, diagnostics=diagnostics)
    models, tensors = _number(len(facts["models"]), "model"), _number(facts["tensors"], "tensor")
    lines = [f"{facts['recipe']}: {models} -> {tensors} ({facts['kind']})"]
    lines += [f"  {label}" for label in facts["models"]]
    for group in facts["groups"]:
        shape = " x ".join(map(str, group["shape"])) or "scalar"
        tensors, experts = _number(group["tensors"], "tensor"), _number(group["experts"], "expert")
        line = f"  {group['method']}: {tensors} of {shape}, {experts}"
        if "bytes_read" in group:
            line += (
                f"; {size(group['bytes_read'])} read, {size(group['bytes_written'])} written ({group['dtype']}), "
                f"{size(group['peak_memory'])} of memory, {_about(group['seconds'])}"
            )
        lines.append(line)
    total = f"reads {size(facts['bytes_read'])}, writes about {size(facts['bytes_written'])}, takes about "
    total += f"{size(facts['peak_memory'])} of memory"
    if "seconds" in facts:
        total += f" and {_about(facts['seconds'])}"
    lines.append(f"{total}, on {facts['device']}")
    if facts.get("bytes_downloaded"):
        lines.append(f"downloads {size(facts['bytes_downloaded'])} from the Hub first, of which only headers were read")
    if facts.get("vocabulary"):
        lines.append(f"the output's vocabulary has {facts['vocabulary']:,} rows")
    lines += [f"warning: {warning}" for warning in facts["warnings"]]
    return "\n".join(lines)


def _number(count: int, what: str) -> str:
    """
    >>> _number(1, "tensor"), _number(2, "tensor")
    ('1 tensor', '2 tensors')
    """
    return f"{count} {what}{'' if count == 1 else 's'}"


def _about(seconds: float) -> str:
    """
    >>> _about(0.04), _about(2.5)
    ('less than 0.1 s', 'some 2.5 s')
    """
    return f"some {seconds:g} s" if seconds >= 0.1 else "less than 0.1 s"


def size(count: float) -> str:
    """Bytes, in the unit that suits them.

    >>> size(12), size(3_400_000)
    ('12 B', '3.4 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
