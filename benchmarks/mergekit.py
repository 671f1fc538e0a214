"""Recipes of mergekit's documentation, by both: `python benchmarks/mergekit.py MERGEKIT_YAML BASE A B C`.

MERGEKIT_YAML is the command of that name in an environment of its own (`pip install mergekit==0.1.5`); BASE and A to C
are folders of one architecture, with `model.safetensors`. The recipes are those of its examples with these models, as
many layers as they have, and float32 (float16 would hide what is compared). What differs is measured against what the
merge changed, |ours - mergekit's| / |mergekit's - base|, the worst tensor; 0 means equal bits. Beside it stands what
float32 can tell at all: half a unit in the last place of the weights, against the same change.
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

EPS = 2.0**-24


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


def merged(command, folder):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
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
    options = parser.parse_args()
    if options.command is None:  # `make bench` runs all scripts, and this one needs another environment
        print("needs models and an environment that are not here:\n", __doc__)
        return
    if len(options.models) != 4:
        parser.error("expected BASE A B C")
    paths = [str(path.resolve()) for path in options.models]
    base = load_file(options.models[0] / "model.safetensors")
    layers = json.loads((options.models[0] / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    print("| recipe | tensors | equal bits | worst difference / change | float32 can tell |\n| --- |" + " ---: |" * 4)
    for name, recipe in recipes(*paths, layers):
        with tempfile.TemporaryDirectory() as folder:
            file, out = Path(folder, "recipe.yaml"), [Path(folder, each) for each in ("ours", "theirs")]
            file.write_text(yaml.safe_dump({**recipe, "dtype": "float32"}, sort_keys=False), encoding="utf-8")
            ours, config = merged([sys.executable, "-m", "hf_merge3h.cli", "merge", file, out[0], "--quiet"], out[0])
            theirs, their_config = merged([options.command, file, out[1]], out[1])
            assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
            assert config["num_hidden_layers"] == their_config["num_hidden_layers"]
            equal, worst, least = compared(ours, theirs, base)
            print(f"| {name} | {len(theirs)} | {equal} | {worst:.1e} | {least:.1e} |", flush=True)


if __name__ == "__main__":
    main()
