"""How much of each set goes into a mixture, and which rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ...errors import RequestError, bad, nearest
from .records import Example


def by_temperature(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Shares that follow the sizes, flattened by a temperature.

    p_i = n_i^(1/T) / sum_j n_j^(1/T); 1 keeps the sets' own proportions, infinity makes all equal

    >>> by_temperature({"a": 100, "b": 1}, 2.0)
    {'a': 0.9090909090909091, 'b': 0.09090909090909091}

    Reference:
        Arivazhagan et al., "Massively multilingual neural machine translation in the wild", arXiv:1907.05019,
        section 4.
    """
    if not temperature > 0:
        raise bad("temperature", temperature, "a number above 0, or math.inf for equal shares")
    largest = max(sizes.values())
    raised = {name: (size / largest) ** (1 / temperature) for name, size in sizes.items()}
    return normalised(raised)


def normalised(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares that sum to one."""
    total = math.fsum(shares.values())
    return {name: share / total for name, share in shares.items()}


def as_given(shares: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The shares that a user gave, one for each set, scaled to sum to one."""
    unknown = [name for name in shares if name not in names]
    if unknown:
        raise bad("proportions", unknown[0], "names of the sets", nearest(unknown[0], names))
    missing = [name for name in names if name not in shares]
    if missing:
        raise bad("proportions", dict(shares), f"a share for {', '.join(missing)} too", "0 leaves a set out")
    values = list(shares.values())
    if not all(isinstance(each, (int, float)) and math.isfinite(each) and each >= 0 for each in values) or not any(
        values
    ):
        raise bad("proportions", dict(shares), "numbers of 0 or more, not all 0")
    return normalised({name: float(shares[name]) for name in names})


def quotas(shares: Mapping[str, float], size: int) -> dict[str, int]:
    """Whole numbers that sum to `size`, by largest remainders; ties go to the earlier set.

    >>> quotas({"a": 0.5, "b": 0.25, "c": 0.25}, 5)
    {'a': 3, 'b': 1, 'c': 1}
    """
    exact = {name: share * size for name, share in shares.items()}
    whole = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    order = sorted(exact, key=lambda name: whole[name] - exact[name])  # stable: the earlier set first
    for name in order[: size - sum(whole.values())]:
        whole[name] += 1
    return whole


def largest_size(shares: Mapping[str, float], sizes: Mapping[str, int]) -> int:
    """How many rows a mixture can have in which none is repeated."""
    size = min(math.floor(sizes[name] / share + 1e-9) for name, share in shares.items() if share > 0)
    while any(count > sizes[name] for name, count in quotas(shares, size).items()):
        size -= 1
    return size


def check_size(shares: Mapping[str, float], sizes: Mapping[str, int], size: int | None, repeat: bool) -> dict[str, int]:
    """The rows that each set gives, checked against what it has."""
    if size is None:
        size = largest_size(shares, sizes)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise bad("size", size, "a whole number of at least 1")
    wanted = quotas(shares, size)
    short = [f"{name} has {sizes[name]} of {count}" for name, count in wanted.items() if count > sizes[name]]
    if short and not repeat:
        raise RequestError(
            f"size={size}: more rows than there are ({', '.join(short)}): at most "
            f"{largest_size(shares, sizes)} with these proportions, or repeat=True to draw rows more than once"
        )
    return wanted


def draw(examples: Sequence[Example], count: int, generator: np.random.Generator) -> list[Example]:
    """Draw rows without replacement, and whole rounds of all of them first where more are wanted."""
    if count == 0:
        return []
    rounds, rest = divmod(count, len(examples))
    picked = list(range(len(examples))) * rounds
    picked += sorted(generator.permutation(len(examples))[:rest].tolist())
    return [examples[i] for i in picked]
