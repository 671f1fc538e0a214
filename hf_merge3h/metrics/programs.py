"""Programs that models wrote: run in the sandbox against their tests, and pass@k (Chen et al., arXiv:2107.03374)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..errors import bad
from ..sandbox import run_programs
from .checks import Items, as_list, mean, pair, texts

_OUTCOMES = ("passed", "failed", "timeout", "out_of_memory", "sandbox_error")


def score(
    predictions: Any,
    references: Any,
    *,
    timeout: float = 10.0,
    memory: int = 2 << 30,
    workers: int | None = None,
    sandbox: str = "auto",
) -> Items:
    """What came of each program.

    Args:
        predictions: for each problem the complete programs of the model (prompt included, where it completes one).
        references: for each problem its test program, which is run after each of them.
        timeout: seconds one program may take.
        memory: bytes of address space one program may take.
        workers: programs at a time; None: as many as there are cores.
        sandbox: "auto", "bubblewrap", "landlock", "namespaces" or "none", see docs/SANDBOX.md.

    Returns:
        One dict a problem: `outcomes` ("passed", "failed", "timeout", "out_of_memory", "sandbox_error") and `details`.

    Raises:
        RequestError: no lists of text, or nothing isolates here.

    Example:
        >>> items = score([["def double(x): return x + x", "def double(x): return x"]], ["assert double(2) == 4"])
        >>> items[0]["outcomes"]
        ['passed', 'failed']
    """
    predictions, references = pair(predictions, references, "lists of programs, one a problem", "test programs")
    texts("references", references, "each problem needs its tests")
    samples = [_programs(index, programs) for index, programs in enumerate(predictions)]
    pairs = [(program, tests) for programs, tests in zip(samples, references, strict=True) for program in programs]
    ran = iter(run_programs(pairs, timeout=timeout, memory=memory, workers=workers, sandbox=sandbox))
    found = [[next(ran) for _ in programs] for programs in samples]
    return [{"outcomes": [one.outcome for one in ones], "details": [one.detail for one in ones]} for ones in found]


def summarise(items: Items, *, k: Sequence[int] = (1, 10)) -> dict[str, float]:
    """pass@k for each k, and the number of programs by outcome.

    pass@k = mean over problems of 1 - C(n - c, k) / C(n, k), of n programs that ran, c of which passed

    Programs that the sandbox could not run are left out of n; problems with fewer than k left are left out of the mean.
    Where any problem came with fewer than k programs, pass@k is absent.

    Example:
        >>> summarise([{"outcomes": ["passed", "failed"]}], k=[1, 2, 3])["pass@2"]
        1.0
    """
    counts = Counter(outcome for item in items for outcome in item["outcomes"])
    summary: dict[str, float] = {}
    for draws in _draws(k):
        if all(len(item["outcomes"]) >= draws for item in items):
            chances = [_chance(item["outcomes"], draws) for item in items]
            known = [chance for chance in chances if chance is not None]
            summary |= {f"pass@{draws}": mean(known)} if known else {}
    return summary | {outcome: counts[outcome] for outcome in _OUTCOMES}


def _chance(outcomes: Sequence[str], draws: int) -> float | None:
    """Chance that one of `draws` of these programs passes; None where fewer than that could be run."""
    ran = [outcome for outcome in outcomes if outcome != "sandbox_error"]
    failed = sum(outcome != "passed" for outcome in ran)
    return None if len(ran) < draws else 1 - math.comb(failed, draws) / math.comb(len(ran), draws)


def _programs(index: int, programs: Any) -> list[str]:
    where = f"predictions[{index}]"
    return texts(where, as_list(where, programs, "the complete programs for this problem"), "")


def _draws(k: Any) -> list[int]:
    values = [k] if isinstance(k, int) else as_list("k", k, "whole numbers, 1 or more")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise bad("k", k, "whole numbers, 1 or more")
    return values
