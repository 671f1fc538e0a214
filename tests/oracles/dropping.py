"""Signs elected and entries dropped, by magnitude or by lot, from their papers."""

import math

from .entries import (
    dot,
    each,
    elected,
    like,
    oracle,
    rescale_kept,
    restored,
    rows,
    sign,
    stream,
    sum_linear,
    sum_ties,
    top,
)


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
