"""What the oracles share: a tensor's entries as Python floats, sums of them, and drawn numbers."""

import math
from functools import cache

import torch

ORACLES = {}


def oracle(function):
    ORACLES[function.__name__] = function
    return function


def rows(vectors):
    """Each task's entries as a list of floats."""
    return [vector.reshape(-1).tolist() for vector in vectors]


def like(vectors, entries):
    return torch.tensor(entries, dtype=torch.float64).reshape(vectors.shape[1:])


def each(value, n):
    return list(value) if isinstance(value, tuple) else [value] * n


def dot(x, y):
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def norm(x):
    return math.sqrt(dot(x, x))


def add(tasks, weights):
    return [math.fsum(w * x for w, x in zip(weights, entry, strict=True)) for entry in zip(*tasks, strict=True)]


def sign(x):
    return (x > 0) - (x < 0)


MASK = (1 << 64) - 1


@cache
def stream(key, n):
    """SplitMix64 as its authors print it, then the upper 24 bits as a number in [0, 1)."""
    state, numbers = key & MASK, []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        numbers.append(((z ^ (z >> 31)) >> 40) / 2**24)
    return numbers


def top(entries, share):
    """Entries as large as the k-th largest; zeros for the others."""
    if share >= 1 or not entries:
        return entries
    k = max(1, math.floor(share * len(entries)))
    bound = sorted(map(abs, entries), reverse=True)[k - 1]
    return [x if abs(x) >= bound else 0.0 for x in entries]


def elected(entry, election):
    total = math.fsum(entry) if election == "sum" else sum(map(sign, entry))
    return 1 if total >= 0 else -1


def sum_linear(tasks, weights, scale, normalize):
    divisor = math.fsum(weights) if normalize else 1.0
    return [scale * x / divisor for x in add(tasks, weights)]


def sum_ties(tasks, weights, scale, normalize, election):
    merged = []
    for entry in zip(*tasks, strict=True):
        weighted = [w * x for w, x in zip(weights, entry, strict=True)]
        wanted = elected(weighted, election)
        agreeing = [t for t, x in enumerate(weighted) if sign(x) == wanted]
        total = math.fsum(weighted[t] for t in agreeing)
        divisor = math.fsum(weights[t] for t in agreeing)
        merged.append(scale * total / (divisor if normalize and divisor else 1.0))
    return merged


def rescale_kept(before, after, probabilities, rule):
    if rule == "probability":
        return [x / p for x, p in zip(after, probabilities, strict=True)]
    if rule == "l1":
        left = math.fsum(map(abs, after))
        return [x * math.fsum(map(abs, before)) / left for x in after] if left else after
    return after


def restored(vectors, kept, rule):
    return [rescale_kept(task, left, None, rule) for task, left in zip(rows(vectors), kept, strict=True)]
