"""R-TSVM on changes whose truth is known: `python -m hf_merge3h.lab.planted`.

Each expert's true change is low-rank, as fine-tuning's are. Something that is no part of it is planted: single entries
that lie far out (`outliers`), rows that do (`rows`), or a change of a few rows under dense weak noise (`sparse`). A
merge is judged by how far it is from the TSV merge of the true changes, relative to that; so what would help or hurt is
known, where on real experts it is not. `salient` is the counter-example: there the entries that lie far out *are* part
of the change, and damping them must cost.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..registry import get_method

Plant = Literal["none", "outliers", "rows", "sparse", "salient"]
PLANTS: tuple[Plant, ...] = ("none", "outliers", "rows", "sparse", "salient")

#: what is compared: label -> method and parameters
RIVALS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "tsv_merge": ("tsv_merge", {}),
    "r_tsvm": ("r_tsvm", {}),
    "r_tsvm, weights alone": ("r_tsvm", {"gamma": 0}),
    "r_tsvm, ranks alone": ("r_tsvm", {"outliers": "none"}),
    "r_tsvm, boost": ("r_tsvm", {"outliers": "boost", "gamma": 0}),
    "r_tsvm, channel": ("r_tsvm", {"granularity": "channel", "gamma": 0}),
    "r_tsvm, ranks by share": ("r_tsvm", {"outliers": "none", "rank_rule": "share"}),
    "r_tsvm, ranks by noise": ("r_tsvm", {"outliers": "none", "rank_rule": "noise"}),
    "r_tsvm, rank_rule noise": ("r_tsvm", {"rank_rule": "noise"}),
    "random_weights": ("random_weights", {}),
    "uniform_cut": ("uniform_cut", {}),
    "task_arithmetic": ("task_arithmetic", {}),
    "iso_c": ("iso_c", {}),
}


def plant(kind: Plant, seed: int, *, m: int = 96, n: int = 80, rank: int = 8, tasks: int = 3) -> tuple[Tensor, Tensor]:
    """Experts' changes, and the true part of them.

    Args:
        kind: what is planted.
        seed: of all draws.
        m, n, rank, tasks: shape and rank of the true changes, and how many.

    Returns:
        deltas and truth, [tasks, m, n] each.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    spectrum = 0.8 ** torch.arange(rank)
    truth = torch.stack([(normal(m, rank) * spectrum) @ normal(rank, n) for _ in range(tasks)])
    truth = truth / truth.square().mean((-2, -1), keepdim=True).sqrt()
    noise = 0.05 * normal(tasks, m, n)
    if kind == "outliers":
        chosen = torch.rand(tasks, m, n, generator=generator) < 0.005
        noise = noise + chosen * 15 * normal(tasks, m, n)
    elif kind == "rows":
        chosen = torch.rand(tasks, m, 1, generator=generator) < 0.03
        noise = noise + chosen * 5 * normal(tasks, m, n)
    elif kind == "sparse":
        changed = torch.zeros(tasks, m, 1)
        for task in range(tasks):
            changed[task, torch.randperm(m, generator=generator)[:rank]] = 1
        truth = changed * truth * (m / rank) ** 0.5
    elif kind == "salient":
        chosen = torch.rand(tasks, m, n, generator=generator) < 0.005
        truth = truth + chosen * 15 * normal(tasks, m, n)
    deltas = truth + noise
    return deltas, truth


def distance(label: str, deltas: Tensor, truth: Tensor) -> float:
    """|merge of the deltas - TSV merge of the truth| / |the latter|, Frobenius norms.

    A method's own scale is fitted (least squares), so that only the direction of its result is judged.
    """
    name, parameters = RIVALS[label]
    wanted = _dense(get_method("tsv_merge")(truth))
    found = _dense(get_method(name)(deltas, **parameters))
    factor = (found * wanted).sum() / found.square().sum().clamp_min(1e-30)
    return float((factor * found - wanted).norm() / wanted.norm())


def _dense(merged: Any) -> Tensor:
    return merged if isinstance(merged, Tensor) else merged.dense()


def study(seeds: int = 10) -> dict[str, dict[str, dict[str, float]]]:
    """Plant -> rival -> mean distance, and in how many of the draws it is nearer than TSV merging."""
    from .comparison.controls import registered

    with registered():
        return _study(seeds)


def _study(seeds: int) -> dict[str, dict[str, dict[str, float]]]:
    told: dict[str, dict[str, dict[str, float]]] = {}
    for kind in PLANTS:
        drawn = [plant(kind, seed) for seed in range(seeds)]
        found = {label: [distance(label, *one) for one in drawn] for label in RIVALS}
        told[kind] = {
            label: {
                "distance": sum(values) / seeds,
                "nearer": sum(a < b for a, b in zip(values, found["tsv_merge"], strict=True)) / seeds,
            }
            for label, values in found.items()
        }
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="draws of each plant")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    told = study(options.seeds)
    sys.stdout.write((json.dumps(told, indent=1) if options.json else table(told)) + "\n")


def table(told: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Distances, and in brackets in how many draws a rival is nearer to the truth than TSV merging."""
    width = max(map(len, RIVALS))
    lines = [" ".join([" " * width, *(f"{kind:>16}" for kind in told)])]
    for label in RIVALS:
        cells = (f"{of[label]['distance']:8.3f} ({of[label]['nearer']:4.0%})" for of in told.values())
        lines.append(" ".join([f"{label:<{width}}", *(f"{cell:>16}" for cell in cells)]))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
