"""The spectral methods once more, from their papers with METHODS.md's rules: one matrix, float64, LAPACK's SVD.

`ORACLES[name](vectors [task, m, n] float64, weights, *, keys, **parameters)` gives [m, n].
"""

import math

import numpy as np
import torch

from . import oracles

EPS = float(np.finfo(np.float32).eps)

ORACLES = {}


def oracle(function):
    def over_tensors(vectors, weights, **parameters):
        tasks = [weight * task for weight, task in zip(weights, vectors.numpy(), strict=True)]
        return torch.from_numpy(np.ascontiguousarray(function(tasks, weights, **parameters)))

    ORACLES[function.__name__] = over_tensors
    return function


# -- helpers ----------------------------------------------------------------------------------------------------------


def decompose(matrix, floor=None):
    """U, S, V^T cut to the numerical rank."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    if floor is None:
        floor = max(matrix.shape) * EPS * (values[0] if len(values) else 0.0)
    rank = int((values > floor).sum())
    return left[:, :rank], values[:rank], right[:rank]


def partial_isometry(basis):
    left, values, right = np.linalg.svd(basis, full_matrices=False)
    rank = int((values > max(basis.shape) * EPS * values.max(initial=0.0)).sum())
    return left[:, :rank] @ right[:rank]


def orthogonal_sum(parts, shape):
    """polar([U_1 ..]) diag(S) polar([V_1 ..])^T."""
    lefts, values, rights = zip(*parts, strict=True)
    if not sum(map(len, values)):
        return np.zeros(shape)
    left, right = partial_isometry(np.concatenate(lefts, 1)), partial_isometry(np.concatenate(rights, 0).T)
    return left @ np.diag(np.concatenate(values)) @ right.T


def first(triplets, k):
    left, values, right = triplets
    return left[:, :k], values[:k], right[:k]


# -- TSV and R-TSVM ---------------------------------------------------------------------------------------------------


@oracle
def tsv_merge(tasks, weights, *, scale, reference=False, **_):
    m, n = tasks[0].shape
    k = min(m, n) // len(tasks)
    if not reference:
        return scale * orthogonal_sum([first(decompose(task), k) for task in tasks], (m, n))
    parts = [first(np.linalg.svd(task, full_matrices=False), k) for task in tasks]
    lefts, values, rights = zip(*parts, strict=True)
    left, _, turn = np.linalg.svd(np.concatenate(lefts, 1), full_matrices=False)
    turn_right, _, right = np.linalg.svd(np.concatenate(rights, 0), full_matrices=False)
    return scale * (left @ turn) @ np.diag(np.concatenate(values)) @ (turn_right @ right)


def huber(z, kappa, outliers):
    if outliers == "none" or z <= kappa:
        return 1.0
    return kappa / z if outliers == "damp" else min(z / kappa, max(kappa, 1.0))


def channel_factor(sizes, kappa, outliers):
    middle = np.median(sizes)
    deviation = 1.4826 * np.median(np.abs(sizes - middle))
    if deviation <= 16 * EPS * middle:
        return np.ones_like(sizes)
    return np.array([huber(max(0.0, size - middle) / deviation, kappa, outliers) for size in sizes])


def reweight(task, granularity, kappa, outliers, preserve_norm, epsilon):
    if outliers == "none" or granularity == "layer" or not task.any():  # one layer is no outlier among its like
        return task
    if granularity == "channel":
        row = channel_factor(np.linalg.norm(task, axis=1), kappa, outliers)
        column = channel_factor(np.linalg.norm(task, axis=0), kappa, outliers)
        changed = task * row[:, None] * column[None, :]
    else:
        counted = np.abs(task) > epsilon * np.sqrt((task**2).mean())
        deviation = 1.4826 * np.median(np.abs(task[counted]))
        changed = np.array([[x * huber(abs(x) / deviation, kappa, outliers) for x in row] for row in task])
    return changed * (np.linalg.norm(task) / np.linalg.norm(changed) if preserve_norm else 1.0)


def shared_ranks(ranks, demand, limits):
    """Largest remainders; what a task at its limit leaves is divided among the others."""
    given, open_tasks = {}, [t for t in range(len(ranks)) if ranks[t]]
    total = sum(ranks)
    while True:
        rest = total - sum(given.values())
        quota = {t: rest * demand[t] / sum(demand[s] for s in open_tasks) for t in open_tasks}
        full = [t for t in open_tasks if quota[t] >= limits[t]]
        if not full:
            break
        given |= {t: limits[t] for t in full}
        open_tasks = [t for t in open_tasks if t not in full]
        if not open_tasks:
            break
    given |= {t: math.floor(quota[t]) for t in open_tasks}
    left = total - sum(given.values())
    for t in sorted(open_tasks, key=lambda t: math.floor(quota[t]) - quota[t])[:left]:
        given[t] += 1
    return [given.get(t, 0) for t in range(len(ranks))]


@oracle
def r_tsvm(
    tasks, weights, *, scale, granularity, outliers, kappa, preserve_norm, gamma, epsilon, rank_rule,
    low_rank=False, **_
):  # fmt: skip
    m, n = tasks[0].shape
    if granularity == "auto":
        granularity = "channel" if low_rank else "entry"
    parts = [decompose(reweight(task, granularity, kappa, outliers, preserve_norm, epsilon)) for task in tasks]
    limits = [len(values) for _, values, _ in parts]
    ranks = [min(limit, min(m, n) // len(tasks)) for limit in limits]
    sparse = [float((np.abs(x) <= epsilon * np.sqrt((x**2).mean())).mean()) for x in tasks]  # w_t cancels
    demand = [rank * max((1 - s) ** gamma, 1e-9) for rank, s in zip(ranks, sparse, strict=True)]
    if rank_rule == "share":
        ranks = shared_ranks(ranks, demand, limits)
    elif rank_rule == "noise":
        beta = min(m, n) / max(m, n)
        omega = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
        for t, (_, values, _) in enumerate(parts):
            everything = np.concatenate([values, np.zeros(min(m, n) - len(values))])
            above = int((values > gamma * omega * np.median(everything)).sum())
            ranks[t] = min(ranks[t], max(1, above))
    elif gamma:
        ranks = [max(1, math.floor(want)) if rank else 0 for want, rank in zip(demand, ranks, strict=True)]
    return scale * orthogonal_sum([first(part, k) for part, k in zip(parts, ranks, strict=True)], (m, n))


# -- isotropic --------------------------------------------------------------------------------------------------------


@oracle
def iso_c(tasks, weights, *, scale, **_):
    left, values, right = decompose(sum(tasks))
    return scale * (values.mean() if len(values) else 0.0) * left @ right


@oracle
def iso_cts(tasks, weights, *, scale, common, **_):
    m, n = tasks[0].shape
    found = decompose(sum(tasks))
    rank = len(found[1])
    shared = math.floor(rank * common + 1e-9)
    own = (rank - shared) // len(tasks)
    parts = [first(found, shared)]
    for task in tasks:
        outside = task - parts[0][0] @ parts[0][0].T @ task
        parts.append(first(decompose(outside, max(m, n) * EPS * np.linalg.norm(task)), own))
    values = np.concatenate([values for _, values, _ in parts])
    if not len(values):
        return np.zeros((m, n))
    flat = [(left, np.full(len(values_), values.mean()), right) for left, values_, right in parts]
    return scale * orthogonal_sum(flat, (m, n))


# -- KnOTS and WUDI ---------------------------------------------------------------------------------------------------


def in_one_basis(tasks, merge):
    left, values, right = decompose(np.concatenate(tasks, 1))
    if not len(values):
        return np.zeros(tasks[0].shape)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])  # the largest entry of a row is positive
    left, right = left * signs, right * signs[:, None]
    right = np.where(np.abs(right) > EPS, right, 0.0)
    parts = torch.from_numpy(np.stack(np.split(right, len(tasks), 1)))
    return left @ np.diag(values) @ merge(parts, [1.0] * len(tasks)).numpy()


@oracle
def knots_ties(tasks, weights, *, density, election, scale, normalize, **_):
    options = {"density": density, "election": election, "scale": scale, "normalize": normalize}
    return in_one_basis(tasks, lambda v, w: oracles.ORACLES["ties"](v, w, trim_scope="tensor", **options))


@oracle
def knots_dare(tasks, weights, *, density, rescale, scale, keys, **_):
    options = {"density": density, "rescale": rescale, "scale": scale, "keys": keys, "normalize": False}
    return in_one_basis(tasks, lambda v, w: oracles.ORACLES["dare_linear"](v, w, **options))


@oracle
def wudi(tasks, weights, *, ridge, scale, **_):
    """The least-squares problem that the normal equations come from; the ridge is one more task, with white inputs."""
    shares = [np.linalg.norm(task) for task in tasks]
    known = [(task / share, share) for task, share in zip(tasks, shares, strict=True) if share]
    if not known:
        return np.zeros(tasks[0].shape)
    # min_D sum_t |(D - D_t) X_t^T|^2 with X_t = D_t / |D_t|: stack the X_t and solve X D^T = Y.
    stacked = np.concatenate([unit for unit, _ in known], 0)
    targets = np.concatenate([unit @ (share * unit).T for unit, share in known], 0)
    if ridge:
        stacked = np.concatenate([stacked, ridge**0.5 * np.eye(stacked.shape[1])], 0)
        targets = np.concatenate([targets, ridge**0.5 * sum(tasks).T], 0)
    return scale * (np.linalg.pinv(stacked, rcond=max(tasks[0].shape) * EPS) @ targets).T
