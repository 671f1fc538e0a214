"""Compiled loops give the bits of torch's operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_merge3h import get_method
from hf_merge3h.linalg import blocks, dropping, figures, native, random, select, signs, stored, weighted
from hf_merge3h.linalg.figures import Figures
from hf_merge3h.methods import selection, ties

SIZES = (1, 15, 4097, 70_001)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], tuple[Any, Any]]:
    """Something done with compiled loops, and without; afterwards they are as they were."""
    monkeypatch.setattr(native, "_kernels", native._found())

    def run(action: Callable[[], Any]) -> tuple[Any, Any]:
        monkeypatch.setattr(native, "_kernels", native._found())
        assert native.loaded()
        compiled = action()
        monkeypatch.setattr(native, "_kernels", None)
        return compiled, action()

    return run


def vectors(size: int, tasks: int = 3, seed: int = 0) -> Tensor:
    """Entries of all signs and sizes, with zeros of both signs, equal magnitudes, tiny and huge ones."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(tasks, 1, size, generator=generator)
    found[torch.rand(found.shape, generator=generator) < 0.2] = 0.0
    found[torch.rand(found.shape, generator=generator) < 0.1] = -0.0
    found[torch.rand(found.shape, generator=generator) < 0.1] = 0.5
    found[torch.rand(found.shape, generator=generator) < 0.1] = -0.5
    found[..., : size // 9] *= 1e-41
    found[..., size // 9 : size // 7] *= 1e30
    return found


def same(one: Tensor, other: Tensor) -> bool:
    """The same bits, but for the sign of a zero, which no sum with a base shows."""
    return one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("size", SIZES)
def test_sums_and_elections(size: int, both: Any) -> None:
    stack = vectors(size)
    for weights in (torch.tensor([0.5, 0.25, 1.5]), torch.tensor([1.0, -0.5, 0.0]), torch.tensor([1.0, -1.0, 1e-9])):
        assert same(*both(lambda w=weights: weighted.weighted_sum(stack, w)))
        for election in ("sum", "count"):
            for normalize in (True, False):
                options = {"election": election, "normalize": normalize, "scale": 0.7}
                assert same(*both(lambda w=weights, o=options: ties.merge_agreeing(stack, w, **o)))
    assert same(*both(lambda: selection._variance(stack)))
    factors = torch.tensor([[0.2], [0.5], [0.3]])
    assert same(*both(lambda: selection._erase(stack, factors)))


@pytest.mark.parametrize("size", SIZES)
def test_draws(size: int, both: Any) -> None:
    keys = random.mask_keys(3, ["a", "b"], ["w"])
    assert same(*both(lambda: random.uniform(keys, size, start=11)))
    for probability in (0.0, 1e-3, 0.5, 1 - 2.0**-24):
        assert same(*both(lambda p=probability: random.bernoulli(keys, p, (size,), start=5)))


@pytest.mark.parametrize("size", SIZES)
def test_drops_by_lot(size: int, both: Any) -> None:
    stack = torch.stack([vectors(size)[:, 0], vectors(size, seed=1)[:, 0]], 1)
    keys = random.mask_keys(1, ["a", "b", "c"], ["v", "w"])
    for rule in ("probability", "l1", "none"):
        compiled, plain = both(lambda r=rule: dropping.drop_by_lot(stack, keys, (0.5, 1.0, 1e-3), r, start=7))
        assert same(compiled, plain)
        assert (compiled != 0).sum() < (stack != 0).sum()
    mask = torch.rand(stack.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    factors = torch.tensor([[0.5, 3.0], [1.0, 0.1], [7.0, 0.0]])
    assert same(*both(lambda: dropping.masked_and_weighed(stack, mask, factors)))


@pytest.mark.parametrize("size", SIZES)
def test_float64_sums_to_their_rounding(size: int, both: Any) -> None:
    stack = vectors(size)
    for measure in (blocks.squares, blocks.magnitudes, blocks.gram_of_block):
        compiled, plain = both(lambda m=measure: m(stack))
        assert compiled.dtype == torch.float64
        assert torch.allclose(compiled, plain, rtol=1e-13, atol=0)
        assert torch.equal(compiled.float(), plain.float())


def rows(shape: tuple[int, int], kind: str) -> Tensor:
    """[1, 1, row, n] as differences of weights are, or as they should not be."""
    found = vectors(math.prod(shape), tasks=1).reshape(1, 1, *shape)
    if kind == "normal":
        return torch.randn(found.shape, generator=torch.Generator().manual_seed(5))
    if kind == "rounded":
        return found.bfloat16().float()
    if kind == "outliers":
        return torch.randn(found.shape, generator=torch.Generator().manual_seed(5)).pow_(9)
    if kind == "equal":
        return torch.full(found.shape, -0.25)
    return {"mixed": found, "zeros": found * 0, "tiny": found * 1e-41, "huge": found * 1e7}[kind]


@pytest.mark.parametrize("kind", ["normal", "rounded", "outliers", "equal", "mixed", "zeros", "tiny", "huge"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (7, 1500), (2, 40_000)])
def test_drops_by_rank(shape: tuple[int, int], kind: str, both: Any) -> None:
    stack, keys = rows(shape, kind), random.mask_keys(1, ["a"], ["w"])
    for rule in ("probability", "l1", "none"):
        for start in (0, 5 * shape[1]):
            options = ((0.5,), (0.2,), rule)
            assert same(*both(lambda o=options, s=start: dropping.drop_by_rank(stack, keys, *o, start=s)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_ranks_of_what_is_not_finite_stay_in_bounds(value: float, both: Any) -> None:
    """It is refused after the block; until then it must not lead out of an array."""
    stack, keys = rows((7, 1500), "normal"), random.mask_keys(1, ["a"], ["w"])
    stack[0, 0, 3, 17] = value
    compiled, plain = both(lambda: dropping.drop_by_rank(stack, keys, (0.5,), (0.2,), "probability"))
    sound = torch.arange(7) != 3
    assert same(compiled[0, 0, sound], plain[0, 0, sound])


@pytest.mark.parametrize("size", SIZES)
def test_thresholds_of_a_reading(size: int, both: Any) -> None:
    sizes = vectors(size, tasks=1)[0, 0].abs().numpy()
    for low, high in ((0.3, 0.9), (0.5, 0.5), (0.0, 0.4), (1.0, math.inf), (0.0, 0.0)):
        bounds = [(float(np.float32(low)), float(np.float32(high)))]
        (compiled,), (plain,) = both(lambda b=bounds: select._within(sizes, b))
        assert compiled[:2] == plain[:2]
        if low != high:
            assert np.array_equal(compiled[2], plain[2])


def test_a_bound_that_most_entries_share(both: Any) -> None:
    stack = torch.full((2, 1, 9000), 0.25)
    stack[1, 0, ::3] = -0.5

    def find() -> list[list[float]]:
        ranks = select.StreamedRanks([(10,), (3001,)], 9000)
        while (stride := ranks.stride()) is not None:
            ranks.add(ranks.look(0, stack[..., ::stride]))
        return ranks.found

    compiled, plain = both(find)
    assert compiled == plain == [[0.25], [0.25]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", SIZES)
def test_reading_and_writing(size: int, dtype: torch.dtype, both: Any) -> None:
    flat, base = [each[0].to(dtype) for each in vectors(size, 2)], vectors(size, 1, seed=1)[0, 0].to(dtype)
    for subtract in (True, False):
        stack, origin, finite = stored.Reader(flat, base, subtract=subtract)(0, size)
        assert finite
        assert origin is not None
        assert torch.equal(origin, base.float())
        wanted = torch.stack([each.float() - base.float() if subtract else each.float() for each in flat])
        assert torch.equal(stack[:, 0], wanted)
    target = torch.empty(size, dtype=torch.bfloat16)
    merged = vectors(size, 1, seed=2)[0, 0]
    assert stored.narrow(merged, base.float(), target)
    assert torch.equal(target.view(torch.int16), (merged + base.float()).bfloat16().view(torch.int16))
    assert stored.narrow(merged, None, target)
    assert torch.equal(target.view(torch.int16), merged.bfloat16().view(torch.int16))


@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", SIZES)
def test_sums_while_reading(size: int, dtype: torch.dtype, tasks: int, both: Any) -> None:
    ordinary = vectors(size + 9, tasks).clamp(-1e30, 1e30)[:, 0]
    flat, base = list(ordinary.to(dtype)), vectors(size + 9, 1, seed=1)[0, 0].clamp(-1e30, 1e30).to(dtype)
    weights, ratio = torch.linspace(-0.3, 0.9, tasks), float(torch.tensor(0.7))
    for under in (None, base):
        rows = torch.stack([each.float() if under is None else each.float() - base.float() for each in flat])[:, 9:]
        sums = stored.Sums.of(flat, under)
        assert sums is not None
        found = sums.products(9, size, 5000)
        assert len(found) == -(-size // 5000)
        for gram, block in zip(found, rows.split(5000, -1), strict=True):
            assert torch.equal(gram, blocks.gram_of_block(block.contiguous().unsqueeze(1)))
        for factor in (1.0, ratio, 0.0):
            merged = weighted.weighted_sum(rows, weights) * factor
            wanted = (merged if under is None else merged + base[9:].float()).bfloat16()
            target = torch.empty(size, dtype=torch.bfloat16)
            assert sums.average(9, weights, factor, target)
            assert torch.equal(target, wanted)


def close(found: Figures, wanted: Figures, off: float = 1e-5) -> bool:
    """The same counts, and sums that differ by the rounding of float32 (torch adds up long rows in it)."""
    sizes = wanted.gram.diagonal().sqrt()
    return (
        (found.changed, found.conflicts) == (wanted.changed, wanted.conflicts)
        and bool(((found.gram - wanted.gram).abs() <= off * sizes[:, None] * sizes).all())
        and math.isclose(found.lost, wanted.lost, rel_tol=1e-3, abs_tol=1e-12)
    )


def in_float64(deltas: Tensor, change: Tensor, base: Tensor, stored: Tensor) -> Figures:
    """`figures.measured` as one would write it down, entry by entry."""
    vectors = torch.cat([deltas, change[None]]).double()
    signs = deltas.sign().tolist()
    ways = [{column[i] for column in signs} - {0} for i in range(len(change))]
    lost = 0.0 if stored.dtype == torch.float32 else float((stored.double() - base.double() - change).square().sum())
    return Figures(vectors @ vectors.mT, sum(map(bool, ways)), sum(len(each) == 2 for each in ways), lost)


@pytest.mark.parametrize("in_weights", [True, False])
@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", SIZES)
def test_what_a_merge_did(size: int, dtype: torch.dtype, tasks: int, in_weights: bool, both: Any) -> None:
    deltas, base = vectors(size, tasks)[:, 0].clamp(-4, 4), torch.linspace(-2, 2, size)
    experts = deltas + base if in_weights else deltas
    deltas = experts - base if in_weights else deltas
    merged = weighted.weighted_sum(experts, torch.linspace(0.2, 0.9, tasks))
    change = merged - base if in_weights else merged
    kept = (base + change).to(dtype)
    wanted = in_float64(deltas, change, base, kept)
    compiled, plain = both(lambda: figures.measured(experts, merged, base, kept, in_weights=in_weights))
    assert close(compiled, wanted)
    assert close(plain, wanted, off=1e-3)
    assert size < 100 or (wanted.conflicts > 0) == (tasks > 1)
    assert size < 100 or (wanted.lost > 0) == (dtype != torch.float32)


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", SIZES)
def test_sums_measured_while_reading(size: int, dtype: torch.dtype, tasks: int, subtract: bool, both: Any) -> None:
    flat = list(vectors(size + 9, tasks)[:, 0].clamp(-4, 4).to(dtype))
    base = torch.linspace(-2, 2, size + 9).to(dtype)
    sums, weights, ratio = stored.Sums.of(flat, base, subtract=subtract), torch.linspace(0.2, 0.9, tasks), 0.75
    assert sums is not None
    target, measured = torch.empty(2, size, dtype=torch.bfloat16)
    assert sums.average(9, weights, ratio, target)
    fits, found = sums.average_measured(9, weights, ratio, measured)
    assert fits
    assert torch.equal(measured, target)
    origin, experts = base[9:].float(), torch.stack([each[9:].float() for each in flat])
    total = weighted.weighted_sum(experts - origin if subtract else experts, weights) * ratio
    change = total if subtract else total - origin
    assert close(found, in_float64(experts - origin, change, origin, target))


def test_sums_while_reading_are_of_one_dtype(both: Any) -> None:
    one, other = torch.ones(3), torch.ones(3, dtype=torch.bfloat16)
    assert stored.Sums.of([one, other], None) is stored.Sums.of([one], other) is None
    assert stored.Sums.of([one.half()], None) is stored.Sums.of([torch.ones(6)[::2]], None) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_seen(value: float, both: Any) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        fine, broken = torch.ones(5000, dtype=dtype), torch.ones(5000, dtype=dtype)
        broken[4321] = value
        assert stored.Reader([fine, fine], fine, subtract=True)(0, 5000)[2]
        for flat, base in (([fine, broken], fine), ([fine, fine], broken)):
            assert not stored.Reader(flat, base, subtract=True)(0, 5000)[2]
            for weights, ratio in ((torch.tensor([0.5, 0.5]), 1.0), (torch.zeros(2), 0.0)):
                rounded = torch.empty(5000, dtype=torch.bfloat16)
                assert not stored.Sums(flat, base).average(0, weights, ratio, rounded)
                for subtract in (True, False):
                    sums = stored.Sums(flat, base, subtract=subtract)
                    assert not sums.average_measured(0, weights, ratio, rounded)[0]
        rounded = torch.empty(5000, dtype=torch.bfloat16)
        assert not stored.Sums([fine, broken], None).average(0, torch.zeros(2), 0.0, rounded)
    target, number = torch.empty(3, dtype=torch.bfloat16), torch.tensor([1.0, value, 1.0])
    assert not stored.narrow(number, None, target)
    assert not stored.narrow(torch.full((3,), 3.4e38), None, target)  # finite, and too large for bfloat16
    every_bit = torch.tensor([0x7FFFFFFF, 1, 1], dtype=torch.int32).view(
        torch.float32
    )  # a NaN that rounding would wrap
    assert not stored.narrow(every_bit, None, target)


def test_small_merges_do_not_import_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_kernels", None)
    monkeypatch.setattr(native, "_found", lambda: pytest.fail("asked for numba"))
    assert not native.load((1 << 24) - 1)


def test_without_numba_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_kernels", None)
    monkeypatch.setattr(native, "_found", lambda: None)
    assert not native.load(1 << 30)
    stack = vectors(100)
    assert not native.takes(stack)
    assert torch.equal(get_method("task_arithmetic")(stack[:, 0], [1, 1, 1]), signs._total(stack[:, 0]))
