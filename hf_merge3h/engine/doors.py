"""The three doors: `model.merge_3h`, `peft_model.merge_3h`, and `merge`, the function behind both."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import Problems, RequestError, all_or_every_error, bad
from ..models.adapters.read import AdapterDeltas, widest
from ..models.adapters.write import check_writable, write_adapter
from ..models.experts import AdaptedBase, disk_names, fused_names
from ..models.open import (
    is_peft_model,
    live_base,
    load_model,
    open_adapter,
    open_base,
    open_expert,
    plain_skeleton,
    recorded_bases,
)
from ..models.origin import live_origin
from ..models.types import Expert, HubOptions, TensorSpec
from ..models.weights.module import LiveModule
from .ambient import in_plain_arithmetic
from .live_report import dtype_names, leave, report_of, warn
from .plan import make_plan, refuse_fused
from .request import Request, as_integer, make_request, resolve_dtype
from .run import Run
from .sinks import AdapterSink, WeightSink
from .stream_plan import Tell

T = TypeVar("T")

#: What vLLM's `max_lora_rank` may be set to.
_SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def merge(
    base: Any,
    experts: Mapping[str, Any] | Sequence[Any],
    *,
    method: str = "r_tsvm",
    weights: Sequence[float] | Mapping[str, float] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    progress: bool = True,
    adapter_name: str | None = None,
    rank: int | str | None = None,
    overwrite: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
    **method_parameters: Any,
) -> Any:
    """Merge experts of one base into one model: the function behind both `merge_3h` methods.

    Args:
        base: a live model (changed in place), a PeftModel (gets a new adapter), a Hub id or folder (loaded), or None
            where the experts are adapters: then the base that they record.
        experts: dict of role -> source or list of sources, see `PreTrainedModel.merge_3h`.
        method, weights, seed, device, dtype, progress: see there.
        adapter_name, rank, overwrite: only where the base is a PeftModel, see `PeftModel.merge_3h`.
        token, revision, subfolder, cache_dir, local_files_only: as in `from_pretrained`, for sources on the Hub.
        **method_parameters: the method's own.

    Returns:
        The live model or PeftModel that was given, or the one that was loaded, merged; its `merge_report` tells more.

    Raises:
        RequestError: the request cannot be carried out; nothing has changed.
    """
    hub = HubOptions(token, revision, subfolder, cache_dir, local_files_only)
    common: dict[str, Any] = {
        "method": method, "weights": weights, "seed": seed, "device": device, "dtype": dtype, "progress": progress,
        "hub": hub, "parameters": method_parameters,
    }  # fmt: skip
    if is_peft_model(base):
        return merge_adapters(
            base, experts, adapter_name="merged" if adapter_name is None else adapter_name, rank=rank,
            overwrite=bool(overwrite), **common,
        )  # fmt: skip
    for name, value in (("adapter_name", adapter_name), ("rank", rank), ("overwrite", overwrite)):
        if value is not None:
            raise bad(name, value, "a PeftModel as base", f"leave {name} out: here the result is whole weights")
    if isinstance(base, nn.Module):
        return merge_module(base, experts, base=None, **common)
    make_request(experts, method=method, weights=weights, parameters=method_parameters, seed=seed, device=device)
    model = load_model(base, list(experts.values() if isinstance(experts, Mapping) else experts), hub)
    return merge_module(model, experts, base=None, **common)


@in_plain_arithmetic
def merge_module(
    model: nn.Module,
    experts: Any,
    *,
    method: str,
    weights: Any,
    base: Any,
    seed: int,
    device: str | torch.device,
    dtype: str | torch.dtype | None,
    progress: bool,
    hub: HubOptions,
    parameters: Mapping[str, Any],
) -> Any:
    """Merge into a live model's weights; see `integrations.merge_into_model`."""
    start = time.perf_counter()
    request = make_request(experts, method=method, weights=weights, parameters=parameters, seed=seed, device=device)
    target = resolve_dtype(dtype)
    live = LiveModule(model, "the model")
    origin = live_base(live, hub) if base is None else open_base(base, live, hub)
    opened = _open_all(request, lambda role, source: open_expert(role, source, live, origin, hub))
    _refuse_other_bases(opened)
    specs = live.specs()
    plan = make_plan(request, specs, opened, weights_at_hand=True)
    sink = WeightSink(specs, target)
    run = Run(plan, request, opened, origin.weights.load, origin.label, sink, weights_at_hand=True, progress=progress)
    tensors = run()
    if base is not None:  # what no expert changes is the base's, too
        for name in specs.keys() - sink.tensors.keys():
            sink.tensors[name] = origin.weights.load(name).clone()
    dtypes = {target or specs[name].dtype for name in (sink.tensors or specs)}
    report = report_of(request, opened, origin.label, tensors, start)
    report.base_origin, report.origins = origin.origin.facts(), tuple(each.origin.facts() for each in opened)
    report.output = {"kind": "weights", "dtype": dtype_names(dtypes)}
    warn(report)
    live.commit(sink.tensors, dtype=target, then=lambda: leave(model, report, start))
    return model


@in_plain_arithmetic
def merge_adapters(
    model: Any,
    adapters: Any,
    *,
    method: str,
    weights: Any,
    adapter_name: str,
    rank: int | str | None,
    seed: int,
    device: str | torch.device,
    dtype: str | torch.dtype | None,
    progress: bool | Tell,
    overwrite: bool,
    hub: HubOptions,
    parameters: Mapping[str, Any],
    at_hand: Mapping[str, AdapterDeltas] | None = None,
) -> Any:
    """Merge adapters into an adapter; see `integrations.merge_into_adapter`.

    Args:
        at_hand: adapters that were opened already, by role: they are not read again. Other arguments: see there.
    """
    start = time.perf_counter()
    request = make_request(adapters, method=method, weights=weights, parameters=parameters, seed=seed, device=device)
    _check_delta_form(request)
    rank = _checked_rank(rank)
    target = resolve_dtype(dtype)
    tree = check_writable(model, adapter_name, overwrite=overwrite)
    skeleton = functools.cache(lambda: plain_skeleton(model))
    known = at_hand or {}
    opened = _open_all(
        request, lambda role, source: known.get(role) or open_adapter(role, source, model, skeleton, hub)
    )
    specs = _common_specs(opened)
    refuse_fused(request, specs, lambda: fused_names(skeleton(), specs))
    plan = make_plan(request, specs, opened, weights_at_hand=False)
    sink = AdapterSink(
        whole=frozenset().union(*(adapter.whole_names() for adapter in opened)),
        stacks=frozenset().union(*(adapter.stack_names() for adapter in opened)),
        rank_of=lambda name: [adapter.rank_of(name) for adapter in opened if name in adapter.parts],
        rank=rank,
        dtype=target or widest(adapter.dtype for adapter in opened),
    )
    on_disk = disk_names(skeleton(), specs) if "keys" in request.method.needs else {}
    run = Run(
        plan, request, opened, tree.parameters.__getitem__, "the base", sink, weights_at_hand=False,
        progress=progress, name_on_disk=lambda name: on_disk.get(name, name),
    )  # fmt: skip
    tensors = run()
    report = report_of(request, opened, _base_label(model), tensors, start)
    report.base_origin = live_origin(model.get_base_model(), hub).facts()
    report.origins = tuple(adapter.origin.facts() for adapter in opened)
    greatest = max((tensor.kept_rank for tensor in tensors if tensor.kept_rank is not None), default=0)
    report.output = {
        "kind": f"adapter {adapter_name!r}",
        "adapter": adapter_name,
        "dtype": dtype_names({sink.dtype}),
        "rank": greatest,
        "max_lora_rank": next((served for served in _SERVED_RANKS if served >= greatest), None),
    }
    disagreement = recorded_bases(opened)
    warn(report, [disagreement] if disagreement else [])
    deltas = {name: sink.deltas[name] for name in specs if name in sink.deltas}  # whichever core was done first
    write_adapter(
        model, adapter_name, deltas, sources=opened, dtype=sink.dtype, overwrite=overwrite, checked=tree,
        then=lambda: leave(model, report, start),
    )  # fmt: skip
    return model


def _open_all(request: Request, open_one: Callable[[str, Any], T]) -> list[T]:
    """All experts; what is wrong with each of them is told at once."""
    jobs = [functools.partial(open_one, *each) for each in zip(request.roles, request.sources, strict=True)]
    return all_or_every_error(jobs, "several experts cannot be merged")


def _refuse_other_bases(experts: Sequence[Expert]) -> None:
    """Adapters that were trained on different models are no experts of one base."""
    adapters = [expert.adapter for expert in experts if isinstance(expert, AdaptedBase)]
    disagreement = recorded_bases(adapters)
    if disagreement:
        raise RequestError(f"experts: {disagreement}; task vectors of different bases cannot be merged")


def _check_delta_form(request: Request) -> None:
    """Adapters are task vectors, and their base is not read: a method that works on whole weights is refused."""
    method = request.method
    if "base" in method.needs or not method.takes_deltas(request.parameters, request.weights):
        raise bad(
            "method", method.name, "a method that can work on task vectors: this one needs whole weights",
            "merge into the model instead: hf_merge3h.merge(base_model, adapters, method=...), "
            "or unload the PeftModel and call merge_3h on it",
        )  # fmt: skip


def _checked_rank(rank: Any) -> int | str | None:
    if rank is None or (isinstance(rank, str) and rank == "exact"):
        return rank
    expected = "None, 'exact' or an integer of at least 1"
    found = as_integer("rank", rank, expected)
    if found < 1:
        raise bad("rank", rank, expected)
    return found


def _common_specs(adapters: Sequence[AdapterDeltas]) -> dict[str, TensorSpec]:
    """All parameters that at least one adapter changes; their shapes must agree."""
    found: dict[str, TensorSpec] = {}
    problems = Problems("the adapters do not fit together")
    for adapter in adapters:
        for name, spec in adapter.specs().items():
            known = found.setdefault(name, TensorSpec(spec.shape, spec.dtype))
            if known.shape != spec.shape:
                problems.add(f"{adapter.label}: {name!r} has shape {list(spec.shape)}, expected {list(known.shape)}")
    problems.raise_any()
    return found


def _base_label(model: Any) -> str:
    base = model.get_base_model()
    return getattr(getattr(base, "config", None), "_name_or_path", "") or type(base).__name__
