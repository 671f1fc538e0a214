"""Sums of task vectors, and Model Stock, from their papers."""

from itertools import combinations

import torch

from .entries import add, dot, like, norm, oracle, rows, sum_linear


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
