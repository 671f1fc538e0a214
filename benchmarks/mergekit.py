"""Recipes of mergekit's documentation, by both: `python benchmarks/mergekit.py MERGEKIT_YAML BASE A B C`.

MERGEKIT_YAML is the command of that name in an environment of its own (`pip install mergekit==0.1.5`); BASE and A to C
are folders of one architecture, with `model.safetensors`. The recipes are those of its examples with these models, as
many layers as they have, and float32 (float16 would hide what is compared). What differs is measured against what the
merge changed, |ours - mergekit's| / |mergekit's - base|, the worst tensor; 0 means equal bits. Beside it stands what
float32 can tell at all: half a unit in the last place of the weights, against the same change.

With `--random` the methods that draw: A and B merged by both, once, and compared in distribution, for each group of
tensors. c is what a merge changed and d what the plain sum of task vectors would have: the share of entries that were
kept (c is not 0), the mean as <c, d> / <d, d>, and the second moment |c|^2 / |d|^2. Entries are drawn independently,
so that of n differences x of one quantity sum(x) / sqrt(sum(x^2)) is normal if both draw from one distribution: the
bound on each is that of 4.5 standard errors, which chance passes 7 times in a million. (Restoring the L1 norm ties the
entries of a tensor together, such that sums vary less.) `--seed` is given to both, and repeats a run; `--only della`
takes one recipe of those that the table names.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

CLI = [sys.executable, "-m", "hf_merge3h.cli"]
EPS = 2.0**-24
SIGMAS = 4.5
GROUPS = ("embed_tokens", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "norm")


def recipes(base, a, b, c, layers):
    whole, cut = [0, layers], layers * 3 // 5
    yield (
        "linear",
        {
            "models": [{"model": m, "parameters": {"weight": w}} for m, w in ((a, 1.0), (b, 0.3), (c, 0.5))],
            "merge_method": "linear",
        },
    )
    yield (
        "gradient-slerp",
        {
            "slices": [{"sources": [{"model": m, "layer_range": whole} for m in (a, b)]}],
            "merge_method": "slerp",
            "base_model": a,
            "parameters": {
                "t": [
                    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
                    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
                    {"value": 0.5},
                ]
            },
        },
    )
    yield (
        "ties",
        {
            "models": [
                {"model": a, "parameters": {"density": [1, 0.7, 0.1], "weight": 1.0}},
                {"model": b, "parameters": {"density": 0.5, "weight": [0, 0.3, 0.7, 1]}},
                {
                    "model": c,
                    "parameters": {"density": 0.33, "weight": [{"filter": "mlp", "value": 0.5}, {"value": 0}]},
                },
            ],
            "merge_method": "ties",
            "base_model": base,
            "parameters": {"normalize": True, "int8_mask": True},
        },
    )
    yield (
        "task_arithmetic",
        {
            "models": [{"model": m, "parameters": {"weight": w}} for m, w in ((a, 1.0), (b, 0.5), (c, -0.25))],
            "merge_method": "task_arithmetic",
            "base_model": base,
        },
    )
    yield (
        "passthrough",
        {
            "slices": [
                {"sources": [{"model": a, "layer_range": [0, cut]}]},
                {"sources": [{"model": b, "layer_range": [cut - layers // 10, layers]}]},
            ],
            "merge_method": "passthrough",
        },
    )


def random_recipes(base, a, b):
    """DARE and DELLA with mergekit's defaults (the L1 norm restored), and DARE without."""
    one, two = [{"model": a}], [{"model": a}, {"model": b}]
    for label, method, models, parameters in (
        ("dare_linear, one expert", "dare_linear", one, {"density": 0.3}),
        ("dare_linear, not rescaled", "dare_linear", one, {"density": 0.5, "rescale": False}),
        ("dare_ties", "dare_ties", two, {"density": 0.5}),
        ("della_linear, one expert", "della_linear", one, {"density": 0.5, "epsilon": 0.2}),
        ("della", "della", two, {"density": 0.4, "epsilon": 0.1}),
    ):
        parameters = {"weight": 1.0, **parameters}
        yield label, {"models": models, "merge_method": method, "base_model": base, "parameters": parameters}


def moments(ours, theirs, base, experts, names):
    """Kept share, mean and second moment of both over some tensors, and each difference in standard errors."""
    found = torch.zeros(2, 3, dtype=torch.float64)  # ours and theirs
    plain, apart, squares, entries = 0.0, torch.zeros(3).double(), torch.zeros(3).double(), 0
    for name in names:
        start = base[name].double()
        task = sum(expert[name].double() - start for expert in experts)
        both = torch.stack([each[name].double() - start for each in (ours, theirs)]).flatten(1)
        terms = torch.stack([(both != 0).double(), both * task.flatten(), both.square()], 1)
        found += terms.sum(-1)
        difference = terms[0] - terms[1]
        apart += difference.sum(-1)
        squares += difference.square().sum(-1)
        plain, entries = plain + float(task.square().sum()), entries + task.numel()
    found /= torch.tensor([entries, plain, plain]).clamp_min(1e-300)
    return found, apart / squares.sqrt().clamp_min(1e-300), entries


def compare_random(command, paths, base, experts, seed, only):
    """A table of each recipe and group of tensors; the greatest difference at the end."""
    print(
        "| recipe | tensors | numbers | kept | mean | second moment | standard errors |\n| --- | --- |" + " ---: |" * 5
    )
    most = 0.0
    for label, recipe in random_recipes(*paths):
        if only not in (None, label):
            continue
        ours, theirs = (tensors for tensors, _ in by_both(command, recipe, seed))
        taking_part = experts[: len(recipe["models"])]
        for group in GROUPS:
            names = [
                name for name in theirs if group in name and any((e[name] != base[name]).any() for e in taking_part)
            ]
            if not names:
                continue
            found, errors, entries = moments(ours, theirs, base, taking_part, names)
            each = " | ".join(f"{mine:.5f}, {its:.5f}" for mine, its in found.T.tolist())
            print(f"| {label} | {group} | {entries} | {each} | {', '.join(f'{e:+.1f}' for e in errors)} |", flush=True)
            most = max(most, float(errors.abs().max()))
    print(f"ours, mergekit's; the greatest difference is {most:.2f} standard errors")
    if most > SIGMAS:
        raise SystemExit(f"more than {SIGMAS}: not the same distribution")


def by_both(command, recipe, seed=0):
    """Our tensors and config, and mergekit's."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, "recipe.yaml"), [Path(folder, each) for each in ("ours", "theirs")]
        file.write_text(yaml.safe_dump({**recipe, "dtype": "float32"}, sort_keys=False), encoding="utf-8")
        ours = merged([*CLI, "merge", file, out[0], "--quiet", "--seed", seed], out[0])
        theirs = merged([command, file, out[1], "--random-seed", seed], out[1])
    assert ours[0].keys() == theirs[0].keys(), ours[0].keys() ^ theirs[0].keys()
    assert ours[1]["num_hidden_layers"] == theirs[1]["num_hidden_layers"]
    return ours, theirs


def merged(command, folder):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}")
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(path))
    return tensors, json.loads((folder / "config.json").read_text(encoding="utf-8"))


def compared(ours, theirs, base):
    """How many tensors have equal bits; the worst difference, and what float32 can tell, against the change."""
    equal, worst, least = 0, 0.0, 0.0
    for name, tensor in theirs.items():
        other = ours[name].double()
        equal += torch.equal(ours[name], tensor)
        difference = float((other - tensor.double()).norm())
        if difference:
            change = float((tensor.double() - base[name].double()).norm())
            worst = max(worst, difference / change)
            least = max(least, EPS * float(tensor.double().norm()) / change)
    return equal, worst, least


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", help="mergekit-yaml")
    parser.add_argument("models", nargs="*", type=Path, help="BASE A B C")
    parser.add_argument("--random", action="store_true", help="the methods that draw, in distribution (BASE A B)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--only", help="one recipe of --random")
    options = parser.parse_args()
    if options.command is None:  # `make bench` runs all scripts, and this one needs another environment
        print("needs models and an environment that are not here:\n", __doc__)
        return
    if len(options.models) != (3 if options.random else 4):
        parser.error("expected BASE A B" + ("" if options.random else " C"))
    paths = [str(path.resolve()) for path in options.models]
    base = load_file(options.models[0] / "model.safetensors")
    if options.random:
        experts = [load_file(path / "model.safetensors") for path in options.models[1:]]
        compare_random(options.command, paths, base, experts, options.seed, options.only)
        return
    layers = json.loads((options.models[0] / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    print("| recipe | tensors | equal bits | worst difference / change | float32 can tell |\n| --- |" + " ---: |" * 4)
    for name, recipe in recipes(*paths, layers):
        (ours, _), (theirs, _) = by_both(options.command, recipe)
        equal, worst, least = compared(ours, theirs, base)
        print(f"| {name} | {len(theirs)} | {equal} | {worst:.1e} | {least:.1e} |", flush=True)


if __name__ == "__main__":
    main()
