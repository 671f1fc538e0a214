"""Slow and obvious: each method once more, from its paper, entry by entry in Python floats.

`ORACLES[name](vectors [task, *shape] float64, weights, *, base, keys, **parameters)` gives [*shape].
"""

import math
from functools import cache
from itertools import combinations

import torch

ORACLES = {}


def oracle(function):
    ORACLES[function.__name__] = function
    return function


# -- helpers ----------------------------------------------------------------------------------------------------------


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


# -- linear -----------------------------------------------------------------------------------------------------------


@oracle
def linear(vectors, weights, *, normalize, **_):
    return like(vectors, sum_linear(rows(vectors), weights, 1.0, normalize))


@oracle
def rewarded_soup(vectors, weights, **_):
    return like(vectors, add(rows(vectors), weights))


@oracle
def task_arithmetic(vectors, weights, *, scale, normalize, **_):
    return like(vectors, sum_linear(rows(vectors), weights, scale, normalize))


@oracle
def model_stock(vectors, weights, *, filter_wise, cosine_floor, **_):
    if filter_wise and vectors.ndim > 2:
        own = {"filter_wise": False, "cosine_floor": cosine_floor}
        return torch.stack([model_stock(vectors[:, i], weights, **own) for i in range(vectors.shape[1])])
    tasks, n = rows(vectors), len(vectors)
    found = []
    for x, y in combinations(tasks, 2):
        found.append(dot(x, y) / max(norm(x) * norm(y), cosine_floor) if norm(x) and norm(y) else 0.0)
    c = sum(found) / len(found)
    t = n * c / (1 + (n - 1) * c) if abs(1 + (n - 1) * c) >= 1e-6 else 0.0
    return like(vectors, [t * x for x in add(tasks, [1 / n] * n)])


# -- sign and magnitude -----------------------------------------------------------------------------------------------


@oracle
def ties(vectors, weights, *, density, trim_scope, rescale="none", election, scale, normalize, **_):
    tasks = [top(task, share) for task, share in zip(rows(vectors), each(density, len(vectors)), strict=True)]
    tasks = restored(vectors, tasks, rescale)
    return like(vectors, sum_ties(tasks, weights, scale, normalize, election))  # one tensor is the whole model


def dare(vectors, density, rescale, keys):
    kept = []
    for task, share, key in zip(rows(vectors), each(density, len(vectors)), keys.tolist(), strict=True):
        after = [x if u < share else 0.0 for x, u in zip(task, stream(key, len(task)), strict=True)]
        kept.append(rescale_kept(task, after, [share] * len(task), rescale))
    return kept


@oracle
def dare_linear(vectors, weights, *, density, rescale, scale, normalize, keys, **_):
    return like(vectors, sum_linear(dare(vectors, density, rescale, keys), weights, scale, normalize))


@oracle
def dare_ties(vectors, weights, *, density, rescale, election, scale, normalize, keys, **_):
    return like(vectors, sum_ties(dare(vectors, density, rescale, keys), weights, scale, normalize, election))


def mag_prune(row, density, epsilon):
    """Probabilities of one row."""
    if len(row) == 1:
        return [density]
    order = sorted(range(len(row)), key=lambda i: abs(row[i]))  # stable, as the method's
    found = [0.0] * len(row)
    for rank, place in enumerate(order):
        found[place] = density - epsilon + 2 * epsilon * rank / (len(row) - 1)
    return [min(1.0, max(min(0.01, density), p)) for p in found]


def drop_by_rank(vectors, density, epsilon, rescale, keys):
    kept = []
    n_tasks = len(vectors)
    for vector, share, window, key in zip(
        vectors, each(density, n_tasks), each(epsilon, n_tasks), keys.tolist(), strict=True
    ):
        task = vector.reshape(-1).tolist()
        if share >= 1:
            kept.append(task)
            continue
        table = vector.reshape(len(vector), -1).tolist() if vector.ndim > 1 else [task]
        chances = [p for row in table for p in mag_prune(row, share, window)]
        after = [x if u < p else 0.0 for x, u, p in zip(task, stream(key, len(task)), chances, strict=True)]
        kept.append(rescale_kept(task, after, chances, rescale))
    return kept


@oracle
def della_linear(vectors, weights, *, density, epsilon, rescale, scale, normalize, keys, **_):
    return like(vectors, sum_linear(drop_by_rank(vectors, density, epsilon, rescale, keys), weights, scale, normalize))


@oracle
def della(vectors, weights, *, density, epsilon, rescale, election, scale, normalize, keys, **_):
    kept = drop_by_rank(vectors, density, epsilon, rescale, keys)
    return like(vectors, sum_ties(kept, weights, scale, normalize, election))


def cut_tails(vectors, density, gamma):
    kept = []
    for task, share, outliers in zip(
        rows(vectors), each(density, len(vectors)), each(gamma, len(vectors)), strict=True
    ):
        if share >= 1:
            kept.append(task)
            continue
        n = len(task)
        k = max(1, math.floor(share * n))
        g = min(math.floor(outliers * n), n - k)
        sizes = sorted(map(abs, task), reverse=True)
        kept.append([x if sizes[g + k - 1] <= abs(x) <= sizes[g] else 0.0 for x in task])
    return kept


@oracle
def breadcrumbs(vectors, weights, *, density, gamma, rescale, scale, normalize, **_):
    kept = restored(vectors, cut_tails(vectors, density, gamma), rescale)
    return like(vectors, sum_linear(kept, weights, scale, normalize))


@oracle
def breadcrumbs_ties(vectors, weights, *, density, gamma, rescale, election, scale, normalize, **_):
    kept = restored(vectors, cut_tails(vectors, density, gamma), rescale)
    return like(vectors, sum_ties(kept, weights, scale, normalize, election))


@oracle
def sce(vectors, weights, *, select_topk, equal_below, **_):
    tasks, n_tasks = rows(vectors), len(vectors)
    if select_topk < 1:
        spread = []
        for entry in zip(*tasks, strict=True):
            mean = sum(entry) / n_tasks
            spread.append(sum((x - mean) ** 2 for x in entry))
        varying = sorted((v for v in spread if v > 0), reverse=True)
        bound = varying[max(1, math.floor(select_topk * len(varying))) - 1] if varying else math.inf
        tasks = [[x if v >= bound else 0.0 for x, v in zip(task, spread, strict=True)] for task in tasks]
    squares = [dot(task, task) / len(task) for task in tasks]
    total = sum(squares)
    own = [1 / n_tasks] * n_tasks if total == 0 or total < equal_below else [s / total for s in squares]
    merged = []
    for entry in zip(*tasks, strict=True):
        wanted = elected(entry, "sum")
        agreeing = [t for t, x in enumerate(entry) if sign(x) == wanted]
        divisor = sum(own[t] for t in agreeing)
        merged.append(sum(own[t] * entry[t] for t in agreeing) / divisor if divisor else 0.0)
    return like(vectors, merged)


@oracle
def magmax(vectors, weights, *, scale, **_):
    return like(vectors, [scale * max(entry, key=lambda x: (abs(x), x)) for entry in zip(*rows(vectors), strict=True)])


# -- sphere -----------------------------------------------------------------------------------------------------------


def between(x, y, t, straight):
    lengths = norm(x) * norm(y)
    cosine = max(-1.0, min(1.0, dot(x, y) / lengths)) if lengths else 0.0
    if straight(cosine):
        return [(1 - t) * a + t * b for a, b in zip(x, y, strict=True)]
    angle = math.acos(cosine)
    p, q = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    return [p * a + q * b for a, b in zip(x, y, strict=True)]


@oracle
def slerp(vectors, weights, *, t, **_):
    return like(vectors, between(*rows(vectors), t, lambda cosine: abs(cosine) > 0.9995))


@oracle
def nuslerp(vectors, weights, *, nuslerp_flatten, nuslerp_row_wise, **_):
    t = weights[1] / sum(weights)

    def straight(cosine):
        return math.sin(math.acos(cosine)) < 1e-8

    if nuslerp_flatten or vectors.ndim < 2:
        return like(vectors, between(*rows(vectors), t, straight))
    axis = 1 if nuslerp_row_wise else -1
    moved = vectors.movedim(axis, -1)
    lines = moved.reshape(2, -1, moved.shape[-1]).tolist()
    found = [between(x, y, t, straight) for x, y in zip(*lines, strict=True)]
    return torch.tensor(found, dtype=torch.float64).reshape(moved.shape[1:]).movedim(-1, 0 if nuslerp_row_wise else -1)


@oracle
def multislerp(vectors, weights, *, normalize_weights, eps, **_):
    """As its author describes it: to the tangent space at the mean, average, back to the sphere."""
    tasks = rows(vectors)
    weights = [w / sum(weights) for w in weights] if normalize_weights else weights
    units = [[x / (norm(task) + eps) for x in task] for task in tasks]
    mean = add(units, weights)
    if norm(mean) < max(eps, 1e-6):
        return like(vectors, add(tasks, weights))
    mean = [x / norm(mean) for x in mean]
    tangents = [[x - dot(unit, mean) * m for x, m in zip(unit, mean, strict=True)] for unit in units]
    step = add(tangents, weights)
    size = norm(step)
    stretch = math.sin(size) / size if size else 1.0
    length = sum(w * norm(task) for w, task in zip(weights, tasks, strict=True))
    return like(vectors, [length * (math.cos(size) * m + stretch * s) for m, s in zip(mean, step, strict=True)])


@oracle
def karcher(vectors, weights, *, max_iter, tol, **_):
    pairs = [(task, w) for task, w in zip(rows(vectors), weights, strict=True) if norm(task) and w]
    if not pairs:
        return torch.zeros(vectors.shape[1:], dtype=torch.float64)
    tasks, kept = [task for task, _ in pairs], [w for _, w in pairs]
    kept = [w / sum(kept) for w in kept]
    units = [[x / norm(task) for x in task] for task in tasks]
    point = add(units, kept)
    if norm(point) < 1e-6:
        return like(vectors, add(tasks, kept))
    point = [x / norm(point) for x in point]
    for _ in range(max_iter):
        step = [0.0] * len(point)
        for unit, w in zip(units, kept, strict=True):
            cosine = max(-1.0, min(1.0, dot(unit, point)))
            angle = math.acos(cosine)
            if angle < tol or math.sin(angle) <= 1e-6:
                continue
            stretch = w * angle / math.sin(angle)
            step = [s + stretch * (u - cosine * p) for s, u, p in zip(step, unit, point, strict=True)]
        size = norm(step)
        if size < tol:
            break
        point = [math.cos(size) * p + math.sin(size) / size * s for p, s in zip(point, step, strict=True)]
        point = [x / norm(point) for x in point]
    length = sum(w * norm(task) for w, task in zip(kept, tasks, strict=True))
    return like(vectors, [length * x for x in point])


# -- consensus --------------------------------------------------------------------------------------------------------


def tall(tasks, merged, mask_lambda, min_experts, scale):
    result = []
    for entry, total in zip(zip(*tasks, strict=True), merged, strict=True):
        votes = sum(abs(x) >= mask_lambda * abs(total - x) for x in entry)
        result.append(scale * total if votes >= min_experts else 0.0)
    return result


@oracle
def consensus_ta(vectors, weights, *, mask_lambda, min_experts, scale, normalize, **_):
    tasks = rows(vectors)
    return like(vectors, tall(tasks, sum_linear(tasks, weights, 1.0, normalize), mask_lambda, min_experts, scale))


@oracle
def consensus_ties(vectors, weights, *, density, election, mask_lambda, min_experts, scale, normalize, **_):
    tasks = rows(vectors)
    trimmed = [top(task, share) for task, share in zip(tasks, each(density, len(tasks)), strict=True)]
    merged = sum_ties(trimmed, weights, 1.0, normalize, election)
    return like(vectors, tall(tasks, merged, mask_lambda, min_experts, scale))


@oracle
def ram(vectors, weights, *, threshold, **_):
    return ram_plus(vectors, weights, threshold=threshold, r=0.0, alpha=0.0)


@oracle
def ram_plus(vectors, weights, *, threshold, r, alpha, **_):
    tasks = rows(vectors)
    holders = [[t for t, x in enumerate(entry) if abs(x) > threshold] for entry in zip(*tasks, strict=True)]
    factors = []
    for t in range(len(tasks)):
        unique = sum(1 for each in holders if each == [t])
        shared = sum(1 for each in holders if t in each and len(each) > 1)
        factors.append(1 + r * min(max(shared / unique, 0), alpha) if unique else 1.0)
    merged = []
    for entry, found in zip(zip(*tasks, strict=True), holders, strict=True):
        if len(found) == 1:
            merged.append(factors[found[0]] * entry[found[0]])
        else:
            merged.append(sum(entry[t] for t in found) / len(found) if found else 0.0)
    return like(vectors, merged)


# -- one expert and its base ------------------------------------------------------------------------------------------


@oracle
def nearswap(vectors, weights, *, t, **_):
    return like(vectors, [x * min(max(t / abs(x), 0), 1) if x else 0.0 for x in rows(vectors)[0]])


@oracle
def arcee_fusion(vectors, weights, *, base, **_):
    delta = vectors[0]
    width = delta.shape[-1] if delta.ndim else 1
    importance = []
    for old, change in zip(base.reshape(-1, width).tolist(), delta.reshape(-1, width).tolist(), strict=True):
        new = [a + b for a, b in zip(old, change, strict=True)]
        p = [math.exp(x) / math.fsum(map(math.exp, new)) for x in new]
        q = [math.exp(x) / math.fsum(map(math.exp, old)) for x in old]
        divergence = max(0.0, math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        importance += [abs(x) * divergence for x in change]
    ordered = sorted(importance)
    last = len(ordered) - 1
    q1, median, q3 = ordered[int(0.25 * last)], ordered[last // 2], ordered[int(0.75 * last)]
    bound = median + 1.5 * (q3 - q1)
    return like(
        vectors, [x if i >= bound else 0.0 for x, i in zip(delta.reshape(-1).tolist(), importance, strict=True)]
    )
