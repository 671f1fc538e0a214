"""Merging on the sphere, from its papers."""

import math

import torch

from .entries import add, dot, like, norm, oracle, rows


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
