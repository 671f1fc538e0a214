"""What tails and sparsity of real changes look like: `python -m hf_merge3h.lab.tails --base DIR --expert NAME=DIR ...`.

R-TSVM weights outliers and cuts the ranks of sparse changes; whether an expert has either is measured here, matrix by
matrix, and beside it the same of a random matrix with the same singular values. A low rank alone gives heavy tails (the
entries of a product of factors are sums of few terms), so only what goes beyond that is the expert's own.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import SourceError, bad
from ..evaluation.store import write_aside
from ..linalg.robust import reweighted_entries

MEASURES = ("beyond", "kurtosis", "sparsity", "stable_rank")
_TITLES = {
    "beyond": "share of entries beyond 3 robust\nstandard deviations",
    "kurtosis": "excess kurtosis of the entries\n(0: normal)",
    "sparsity": "share of entries within 0.1\nroot mean squares",
    "stable_rank": "stable rank, of the most possible",
}
_COLOURS = {"light": ("#ffffff", "#202020", "#a0a0a0"), "dark": ("#16181d", "#e8e8e8", "#666c78")}
_LINES = {"light": ("#0072B2", "#D55E00", "#009E73"), "dark": ("#4DA6E8", "#FF8A5B", "#3DD1A5")}


def measure(matrix: Tensor) -> dict[str, float]:
    """Tails and sparsity of one change.

    Args:
        matrix: [m, n], not zero.

    Returns:
        `beyond`: share of entries further out than 3 robust standard deviations, as R-TSVM counts them (0.0027 of a
        normal distribution); `kurtosis`, excess; `sparsity`: share within 0.1 root mean squares (0.080 of a normal
        distribution); `stable_rank`: |D|_F^2 / |D|_2^2 over min(m, n).
    """
    entries = matrix.double()
    rms = entries.square().mean().sqrt()
    clipped = reweighted_entries(matrix.float().unsqueeze(0), 3.0, "damp", 0.1)[0]
    top = torch.linalg.matrix_norm(entries, 2)
    return {
        "beyond": float((clipped != matrix.float()).double().mean()),
        "kurtosis": float((entries / rms).pow(4).mean() - 3.0),
        "sparsity": float((entries.abs() <= 0.1 * rms).double().mean()),
        "stable_rank": float(entries.square().sum() / top**2 / min(matrix.shape)),
    }


def random_of_spectrum(matrix: Tensor, seed: int) -> Tensor:
    """A matrix with the same singular values between random orthonormal bases."""
    values = torch.linalg.svdvals(matrix)
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(side, len(values), generator=generator))[0] for side in matrix.shape)
    return (left * values) @ right.mT


def layer_of(name: str) -> int | None:
    """The number of the layer that a tensor is in.

    >>> layer_of("model.layers.12.mlp.up_proj.weight"), layer_of("model.norm.weight")
    (12, None)
    """
    found = re.search(r"(?<=\.)(\d+)(?=\.)", name)
    return int(found[0]) if found else None


def changes(base: Path, expert: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and changes of the layers' matrices, one at a time.

    Raises:
        SourceError: a folder holds no single safetensors file, or they have different tensors.
    """
    files = [folder / "model.safetensors" for folder in (base, expert)]
    for file in files:
        if not file.is_file():
            raise SourceError(f"{file}: no such file; whole models in one file are compared here")
    with safe_open(files[0], "pt") as before, safe_open(files[1], "pt") as after:
        for name in before.keys():  # noqa: SIM118  it is no dict
            if layer_of(name) is None or len(before.get_slice(name).get_shape()) != 2:
                continue
            if name not in after.keys():  # noqa: SIM118
                raise SourceError(f"{files[1]}: lacks {name}; it is no expert of {base}")
            delta = after.get_tensor(name).float() - before.get_tensor(name).float()
            if delta.any():
                yield name, delta


def study(base: Path, experts: Mapping[str, Path], every: int = 1) -> dict[str, Any]:
    """Expert -> layer -> mean over its matrices of each measure, of the change and of random ones of its spectrum."""
    told: dict[str, Any] = {}
    for expert, folder in experts.items():
        found: dict[int, list[tuple[dict[str, float], dict[str, float]]]] = {}
        for name, delta in changes(base, folder):
            layer = layer_of(name)
            if layer is not None and layer % every == 0:
                pair = measure(delta), measure(random_of_spectrum(delta, layer))
                found.setdefault(layer, []).append(pair)
        told[expert] = {
            str(layer): {
                kind: {key: sum(pair[place][key] for pair in pairs) / len(pairs) for key in MEASURES}
                for place, kind in enumerate(("change", "random"))
            }
            for layer, pairs in sorted(found.items())
        }
    return told


def draw(told: Mapping[str, Any], out: Path) -> list[Path]:
    """A panel a measure, layers along x, for light and dark pages."""
    from matplotlib.figure import Figure

    made = []
    for theme, (paper, ink, faint) in _COLOURS.items():
        figure = Figure(figsize=(11, 6), dpi=110, facecolor=paper, layout="constrained")
        for axes, key in zip(figure.subplots(2, 2).flat, MEASURES, strict=True):
            for place, (expert, layers) in enumerate(told.items()):
                colour = _LINES[theme][place % 3]
                x = [int(layer) for layer in layers]
                for kind, style in (("change", "-"), ("random", ":")):
                    values = [layers[layer][kind][key] for layer in layers]
                    label = expert if kind == "change" else f"{expert}, random of its spectrum"
                    axes.plot(x, values, style, color=colour, linewidth=1.8, label=label, marker="os^"[place % 3], ms=3)
            axes.set(facecolor=paper, xlabel="layer")
            axes.set_title(_TITLES[key], color=ink, fontsize=10)
            axes.tick_params(colors=ink, labelsize=8)
            axes.xaxis.label.set_color(ink)
            for spine in axes.spines.values():
                spine.set_color(faint)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, labelcolor=ink, fontsize=8)
        made.append(out / f"tails-{theme}.png")
        figure.savefig(made[-1], metadata={"Software": None})
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="folder of the base")
    parser.add_argument("--expert", action="append", required=True, help="NAME=FOLDER of a whole fine-tune; repeated")
    parser.add_argument("--out", type=Path, required=True, help="folder for tails.json and the pictures")
    parser.add_argument("--every", type=int, default=1, help="only every n-th layer")
    options = parser.parse_args(arguments)
    experts = {}
    for given in options.expert:
        name, sign, folder = given.partition("=")
        if not sign:
            raise bad("--expert", given, "NAME=FOLDER")
        experts[name] = Path(folder)
    told = study(options.base, experts, max(1, options.every))
    options.out.mkdir(parents=True, exist_ok=True)
    write_aside(options.out / "tails.json", json.dumps(told, indent=1) + "\n")
    draw(told, options.out)
    for expert, layers in told.items():
        means = {
            key: [sum(one[kind][key] for one in layers.values()) / max(1, len(layers)) for kind in ("change", "random")]
            for key in MEASURES
        }
        cells = (f"{key} {own:.4f} (random {other:.4f})" for key, (own, other) in means.items())
        sys.stdout.write(" ".join([expert, *cells]) + "\n")


if __name__ == "__main__":
    main()
