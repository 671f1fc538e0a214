"""Every kind of LoRA through `peft_model.merge_3h`: what is written is the merge of the dense deltas."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from hf_merge3h import RequestError, get_method
from hf_merge3h.engine.plan import is_embedding
from hf_merge3h.models.adapters.layout import lora_layers
from hf_merge3h.models.adapters.read import AdapterDeltas, read_adapter
from hf_merge3h.models.adapters.tree import PeftTree
from tests.models.adapters import test_read, test_write, zoo

KINDS: dict[str, tuple[Any, list[LoraConfig]]] = {
    **test_write.PAIRS,
    **{f"{name}, twice": (make, [c, c]) for name, (make, c) in test_read.ADAPTERS.items() if type(c) is LoraConfig},
}
METHODS = ("task_arithmetic", "linear", "ties", "tsv_merge")
#: Stacks that transformers fuses of the checkpoint's tensors: only what treats each entry by itself is exact there.
FUSED = {"mixtral", "mixtral experts, twice"}
CASES = [(k, m) for k in KINDS for m in METHODS if k not in FUSED or get_method(m).elementwise]


@functools.cache
def _opened(kind: str) -> tuple[Any, dict[str, Tensor], list[AdapterDeltas]]:
    make, configs = KINDS[kind]
    base = make()
    model = zoo.adapted(base, *configs)
    return model, zoo.clean(base), [read_adapter(model, name) for name in model.peft_config]


def _merged(kind: str, method: str, **options: Any) -> tuple[Any, dict[str, Tensor], list[AdapterDeltas]]:
    model, before, sources = _opened(kind)
    model = copy.deepcopy(model)
    with zoo.quiet():
        model.merge_3h(list(model.peft_config), method=method, progress=False, **options)
    return model, before, sources


def _dense(source: AdapterDeltas, name: str, before: dict[str, Tensor]) -> Tensor:
    delta = source.delta(name, lambda: before[name])
    return torch.zeros(before[name].shape) if delta is None else zoo.dense(delta).reshape(before[name].shape)


def _expected(method: str, name: str, before: dict[str, Tensor], sources: list[AdapterDeltas]) -> Tensor:
    record, deltas = get_method(method), torch.stack([_dense(source, name, before) for source in sources])
    if not record.matrix_only:
        return zoo.dense(record(deltas))
    if any(name in source.stack_names() for source in sources):
        return torch.stack([zoo.dense(record(each)) for each in deltas.unbind(1)])
    return deltas.mean(0) if is_embedding(name) or deltas.ndim != 3 else zoo.dense(record(deltas))


def _floor(matrices: Tensor) -> float:
    """What `rank="exact"` counts as zero, relative to the largest singular value."""
    return max(matrices.shape[-2:]) * torch.finfo(torch.float32).eps


def _rank(matrices: Tensor) -> int:
    return int(torch.linalg.matrix_rank(matrices.double(), rtol=_floor(matrices)).max())


@pytest.mark.parametrize("method", [each for each in METHODS if not get_method(each).elementwise])
@pytest.mark.parametrize("kind", sorted(FUSED))
def test_fused_stacks_are_refused_where_the_merge_would_not_be_that_of_the_checkpoints(kind: str, method: str) -> None:
    with pytest.raises(RequestError, match=r"experts\.gate_up_proj|experts\.down_proj.*fuses tensors"):
        _merged(kind, method)


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_written_is_the_merge_of_the_dense_deltas(kind: str, method: str) -> None:
    model, before, sources = _merged(kind, method, rank="exact")
    written = read_adapter(model, "merged")
    names = list(dict.fromkeys(name for source in sources for name in source.specs()))
    reports = {report.name: report for report in model.merge_report.tensors}
    assert set(reports) == set(names)
    held = {name: layer.r["merged"] for name, layer in _by_parameter(model).items()}
    for name in names:
        expected, got = _expected(method, name, before, sources), _dense(written, name, before)
        assert (got - expected).norm() <= 2e-5 * expected.norm(), name
        stack = any(name in source.stack_names() for source in sources)
        matrices = expected if stack or expected.ndim < 2 else expected.flatten(1)
        # Rows that are equal but for float32's rounding leave a singular value of that size, and it is dropped.
        assert not reports[name].residual or reports[name].residual <= _floor(torch.atleast_2d(matrices)), name
        whole = any(name in source.whole_names() for source in sources) or expected.ndim < 2
        if whole:
            assert reports[name].kept_rank is None, name
            continue
        true = _rank(matrices)
        kept = reports[name].kept_rank
        if get_method(method).low_rank is None:
            assert kept == true, name
        else:  # factors side by side may be more than the rank of their product
            assert true <= kept <= max(true, sum(source.rank_of(name) or true for source in sources)), name
        if name in held:  # PEFT has no rank 0, and gives all of a layer's bare parameters one rank
            assert held[name] >= kept if stack else held[name] == max(kept, 1), name
    assert model.merge_report.output["rank"] == max(report.kept_rank or 0 for report in reports.values())


def _by_parameter(model: Any) -> dict[str, Any]:
    tree = PeftTree.of(model.get_base_model())
    layers = {name: layer for name, layer in lora_layers(tree).items() if "merged" in layer.r}
    return {name if name in tree.parameters else f"{name}.weight": layer for name, layer in layers.items()}


@pytest.mark.parametrize("kind", ["convolutions", "convolutions, twice", "vit, twice"])
def test_kernels_are_cut_to_the_sum_of_the_ranks(kind: str) -> None:
    """TIES gives no low-rank result: of a kernel, too, the nearest of the sources' ranks together is kept."""
    model, before, sources = _merged(kind, "ties")
    written = read_adapter(model, "merged")
    kernels = 0
    for report in model.merge_report.tensors:
        if len(report.shape) < 3:
            continue
        kernels += 1
        exact = _expected("ties", report.name, before, sources).flatten(1)
        allowed = sum(source.rank_of(report.name) for source in sources)
        values = torch.linalg.svdvals(exact.double())
        lost = float(values[allowed:].norm() / values.norm())
        got = _dense(written, report.name, before).flatten(1)
        assert report.kept_rank <= min(allowed, *exact.shape)
        assert (report.residual or 0.0) == pytest.approx(lost, abs=1e-6)
        assert float((got - exact).norm() / exact.norm()) == pytest.approx(lost, abs=2e-5)
    assert kernels


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "tsv_merge"])
def test_trained_tokens_stay_the_few_rows_that_they_are(method: str) -> None:
    model, _, _ = _merged("tokens, twice", method)
    assert model.peft_config["merged"].trainable_token_indices == {"model.embed_tokens": [3, 7]}


@pytest.mark.parametrize("kind", ["vit, twice", "scaling, twice"])
def test_random_masks_are_the_same_through_both_doors(kind: str) -> None:
    """They are keyed by names on disk, which for ViT are others than in memory."""
    make, _ = KINDS[kind]
    base = make()
    model, before, _ = _merged(kind, "dare_linear", rank="exact", seed=3)
    experts = {}
    for name in [name for name in model.peft_config if name != "merged"]:
        whole = copy.deepcopy(_opened(kind)[0])
        with zoo.quiet():
            whole.set_adapter(name)
            experts[name] = whole.merge_and_unload(adapter_names=[name])
    with zoo.quiet():
        base.merge_3h(experts, method="dare_linear", seed=3, progress=False)
    written, after = read_adapter(model, "merged"), zoo.clean(base)
    for name in written.specs():
        delta = after[name] - before[name]
        assert (_dense(written, name, before) - delta).norm() <= 1e-4 * delta.norm(), name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["linear", "ties"])
@pytest.mark.parametrize("kind", ["dora, twice", "saved head, twice", "tokens, twice"])
def test_a_base_that_is_not_finite_is_the_bases_fault(kind: str, method: str, value: float) -> None:
    model = copy.deepcopy(_opened(kind)[0])
    tree = PeftTree.of(model.get_base_model())
    name = next(name for name in _opened(kind)[2][0].specs() if read_adapter(model, "default").needs_base(name))
    with torch.no_grad():
        tree.parameters[name][3] = value
    with pytest.raises(RequestError, match=rf"the base: tensor '{name}' .*'default' makes"):
        model.merge_3h(["default", "second"], method=method, progress=False)
    assert "merged" not in model.peft_config
