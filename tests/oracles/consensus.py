"""What experts agree on, and one expert beside its base, from their papers."""

import math

from .entries import each, like, oracle, rows, sum_linear, sum_ties, top


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
