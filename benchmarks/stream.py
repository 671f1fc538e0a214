"""Streamed merges against the floor of the disk: `python benchmarks/stream.py [--size 0.25] [--methods linear ties]`.

Synthetic bf16 Llama checkpoints (a base and three experts close to it) of about so many billion parameters, warm cache.
The floor reads all inputs once and writes the output once, in blocks of 16 MiB. Each merge is a process of its own; its
wall time less that of a bare `import torch` is given as a multiple of the floor, with the peak of its anonymous memory
(RssAnon, sampled). Times are taken in one run, so that the multiple means something on a busy machine.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPES = {  # hidden, intermediate, layers, key-value width, vocabulary
    0.05: (512, 1408, 8, 128, 32000),
    0.25: (1024, 2816, 16, 256, 32000),
    1.1: (2048, 5632, 22, 256, 32000),
    3.0: (3072, 8192, 26, 1024, 32000),
}
METHODS = ("linear", "task_arithmetic", "model_stock", "slerp", "ties", "dare_ties", "della", "breadcrumbs", "sce")
BLOCK = 1 << 24


def shapes(size):
    hidden, inner, layers, width, words = SHAPES[size]
    yield "model.embed_tokens.weight", (words, hidden)
    for layer in range(layers):
        start = f"model.layers.{layer}"
        for name, shape in {
            "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (width, hidden),
            "self_attn.v_proj": (width, hidden), "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
            "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        }.items():  # fmt: skip
            yield f"{start}.{name}.weight", shape
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (words, hidden)


def make(folder, size):
    """The base and three experts: weights of std 0.02, changes of std 0.001."""
    names = ("base", "e1", "e2", "e3")
    for name in names:
        (folder / name).mkdir()
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": SHAPES[size][2]}
        (folder / name / "config.json").write_text(json.dumps(config))
    tensors = {name: {} for name in names}
    for number, (key, shape) in enumerate(shapes(size)):
        base = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(number))
        tensors["base"][key] = base.bfloat16()
        for seed, name in enumerate(names[1:], start=1):
            change = torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + number))
            tensors[name][key] = change.mul_(0.001).add_(base).bfloat16()
    for name, each in tensors.items():
        save_file(each, folder / name / "model.safetensors", {"format": "pt"})
    return [folder / name / "model.safetensors" for name in names]


def floor(files, out):
    start = time.perf_counter()
    left = files[0].stat().st_size
    with out.open("wb", buffering=0) as target:
        for file in files:
            with file.open("rb", buffering=0) as source:
                while block := source.read(BLOCK):
                    if left > 0:
                        left -= target.write(block[:left])
    seconds = time.perf_counter() - start
    out.unlink()
    return seconds


def anonymous(pid):
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def timed(command):
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return time.perf_counter() - start, peak


def recipe(folder, method):
    experts = ["e1", "e2", "e3"]
    content = {"merge_method": method, "base_model": str(folder / "base"), "dtype": "bfloat16", "parameters": {}}
    if method == "slerp":
        experts, content["parameters"] = ["base", "e1"], {"t": 0.5}
    if method in ("ties", "dare_ties", "della", "breadcrumbs"):
        content["parameters"] = {"density": 0.5}
    if method == "sce":
        content["parameters"] = {"select_topk": 0.5}
    if method == "linear":
        content.pop("base_model")
        experts = ["base", "e1", "e2", "e3"]
    parameters = {} if method in ("model_stock", "slerp", "sce") else {"parameters": {"weight": 0.5}}
    content["models"] = [{"model": str(folder / name), **parameters} for name in experts]
    path = folder / f"{method}.json"  # JSON is YAML
    path.write_text(json.dumps(content))
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=0.25, choices=sorted(SHAPES))
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--diagnostics", action="store_true", help="with diagnostics and hashes, too")
    parser.add_argument("--folder", type=Path, help="where the checkpoints go (a temporary folder, if left out)")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        files = make(place, options.size)
        for file in files:
            floor([file], place / "warm")
        lowest = min(floor(files, place / "floor") for _ in range(3))
        bare = min(timed([sys.executable, "-c", "import torch"])[0] for _ in range(3))
        total = sum(file.stat().st_size for file in files)
        print(f"{options.size}B: floor {lowest:.2f} s ({total / 1e9:.2f} GB read), import torch {bare:.2f} s")
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        modes = [["--no-diagnostics"], []] if options.diagnostics else [["--no-diagnostics"]]
        for method in options.methods:
            for mode in modes:
                command = [sys.executable, "-m", "hf_merge3h.cli", "merge", str(recipe(place, method))]
                command += [str(place / "out"), "--overwrite", "--quiet", "--device", "cpu", *mode]
                seconds, peak = timed(command)
                times, label = (seconds - bare) / lowest, "plain" if mode else "diagnostics, hashes"
                print(
                    f"{method:<16} {label:<20} {seconds:6.2f} s {times:6.2f} x floor  {peak / 1e6:6.0f} MB", flush=True
                )
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
