"""Streamed merges against the floor of the disk: `python benchmarks/stream.py [--size 1.1] [--methods linear ties]`.

Synthetic bf16 Llama checkpoints (a base and three experts close to it) of about so many billion parameters, warm cache.
The floor reads all inputs once and writes the output once, in blocks of 16 MiB. Each merge is a process of its own:
"wall" is its time less that of a bare `import torch`, as a multiple of the floor's; "CPU" the same of user and system
time, which other work on the machine disturbs less; "MB" the peak of its anonymous memory with its workers', sampled in
a run of its own: to ask the kernel walks through all pages that a merge has mapped, which holds up its page faults.
Without `--plain` each merge runs twice, without diagnostics and hashes, and with both. Both floors, of all four models
and of the two that slerp merges, are taken anew before every method, and the best of all counts, as the best of
`--repeat` runs of a merge does. Before anything is timed the last output is removed and the disk is told to sync: what
waits for the disk can slow down the next one's writing (docs/LOG.md has a floor that most likely came from that).
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

from hf_merge3h.models.types import TensorSpec
from hf_merge3h.models.weights.writer import ShardWriter, plan_shards

SHAPES = {  # hidden, intermediate, layers, key-value width, vocabulary
    0.05: (512, 1408, 8, 128, 32000),
    0.25: (1024, 2816, 16, 256, 32000),
    1.1: (2048, 5632, 22, 256, 32000),
    3.0: (3072, 8192, 26, 1024, 32000),
}
TARGETS = {  # times the floor, without diagnostics
    "linear": 2.5, "model_stock": 2.5, "task_arithmetic": 2.5, "slerp": 2.5,
    "ties": 10, "dare_ties": 10, "della": 10, "breadcrumbs": 10, "sce": 10,
}  # fmt: skip
WITH_DIAGNOSTICS = 1.6  # times the target
MODELS = ("base", "e1", "e2", "e3")
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
    """The base and three experts, tensor by tensor: weights of std 0.02, changes of std 0.001."""
    specs = {name: TensorSpec(shape, torch.bfloat16) for name, shape in sorted(shapes(size))}
    writers = {}
    for name in MODELS:
        (folder / name).mkdir()
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": SHAPES[size][2]}
        (folder / name / "config.json").write_text(json.dumps(config))
        writers[name] = ShardWriter(folder / name, plan_shards(specs, 1 << 40), hashes=False)
    for number, (key, spec) in enumerate(specs.items()):
        base = torch.randn(spec.shape, generator=torch.Generator().manual_seed(number)).mul_(0.02)
        writers["base"].write(key, base.bfloat16())
        for seed, name in enumerate(MODELS[1:], start=1):
            change = torch.randn(spec.shape, generator=torch.Generator().manual_seed(1000 * seed + number))
            writers[name].write(key, change.mul_(0.001).add_(base).bfloat16())
    for writer in writers.values():
        writer.close()


def processor_seconds():
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def floor(files, out):
    """Wall and CPU seconds of reading all files once and writing as much as the first holds."""
    start, used = time.perf_counter(), processor_seconds()
    left = files[0].stat().st_size
    with out.open("wb", buffering=0) as target:
        for file in files:
            with file.open("rb", buffering=0) as source:
                while block := source.read(BLOCK):
                    if left > 0:
                        left -= target.write(block[:left])
    seconds = time.perf_counter() - start, processor_seconds() - used
    out.unlink()
    return seconds


def anonymous(pid):
    """Anonymous memory of a process and its children, what they share counted once."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    own = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon")), 0)
    return own + sum(anonymous(child) for child in children)


def timed(command):
    """Wall and CPU seconds of a process."""
    start, used = time.perf_counter(), processor_seconds()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start, processor_seconds() - used


def memory(command):
    """The peak of a process's anonymous memory, bytes."""
    peak, process = 0, subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return peak


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


def best(runs):
    """The least of each figure."""
    wall, used = zip(*runs, strict=True)
    return min(wall), min(used)


class Table:
    """Prints a row a method, and at the end how it compares with the targets."""

    def __init__(self, place, repeat, plain):
        self.place, self.repeat = place, repeat
        self.modes = [["--no-diagnostics"]] if plain else [["--no-diagnostics"], []]
        self.floors, self.rows = {}, {}
        self.bare = best([timed([sys.executable, "-c", "import torch"]) for _ in range(3)])

    def files(self, method):
        """What a method reads: slerp takes two models, so its floor is that of two."""
        return [self.place / name / "model.safetensors" for name in (MODELS[:2] if method == "slerp" else MODELS)]

    def run(self, method):
        for files in (self.files("linear"), self.files("slerp")):
            self.settle()
            self.floors.setdefault(len(files), []).append(floor(files, self.place / "floor"))
        command = [sys.executable, "-m", "hf_merge3h.cli", "merge", str(recipe(self.place, method))]
        command += [str(self.place / "out"), "--quiet", "--device", "cpu"]
        self.rows[method] = []
        for mode in self.modes:
            figures = best([self.merged([*command, *mode]) for _ in range(self.repeat)])
            self.settle()
            self.rows[method].append((*figures, memory([*command, *mode])))
        shown = ", ".join(f"{wall:.2f} s ({used:.2f} s CPU)" for wall, used, _ in self.rows[method])
        print(f"{method:<16} {shown}", flush=True)

    def settle(self):
        """Remove the last output, which takes as long as writing it does, and leave nothing for the disk to do."""
        shutil.rmtree(self.place / "out", ignore_errors=True)
        os.sync()

    def merged(self, command):
        """A merge into a folder that is not there."""
        self.settle()
        return timed(command)

    def multiples(self, method, wall, used):
        floors = self.floors[len(self.files(method))]
        least, busy = (min(each) for each in zip(*floors, strict=True))
        return (wall - self.bare[0]) / least, (used - self.bare[1]) / busy

    def __str__(self):
        titles = ["plain: wall", "CPU", "MB", "target"]
        if len(self.modes) > 1:
            titles += ["diagnostics, hashes: wall", "CPU", "MB", "target"]
        lines = ["| method | " + " | ".join(titles) + " |", "| --- |" + " ---: |" * len(titles)]
        for method, row in self.rows.items():
            cells = []
            for (wall, used, peak), factor in zip(row, (1, WITH_DIAGNOSTICS), strict=False):
                target = TARGETS.get(method)
                for times in self.multiples(method, wall, used):
                    cells.append(f"{times:.2f}")
                cells += [f"{peak / 1e6:.0f}", "" if target is None else f"{target * factor:g}"]
            lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=1.1, choices=sorted(SHAPES))
    parser.add_argument("--methods", nargs="+", default=TARGETS)
    parser.add_argument("--plain", action="store_true", help="only without diagnostics and hashes")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the checkpoints go (a temporary folder, if left out)")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints in FOLDER, and use those there")
    options = parser.parse_args()
    if options.keep and options.folder is None:
        parser.error("--keep needs --folder")
    place = options.folder / str(options.size) if options.keep else Path(tempfile.mkdtemp(dir=options.folder))
    try:
        if not (place / "whole").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            make(place, options.size)
            (place / "whole").touch()
        table = Table(place, options.repeat, options.plain)
        total = sum(file.stat().st_size for file in table.files("linear"))
        floor(table.files("linear"), place / "floor")  # warms the cache
        print(f"{options.size}B, {total / 1e9:.2f} GB of inputs, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for method in options.methods:
            table.run(method)
        for count, floors in sorted(table.floors.items()):
            wall, used = (min(each) for each in zip(*floors, strict=True))
            print(f"floor of {count} models: {wall:.2f} s ({used:.2f} s CPU)")
        print(f"import torch: {table.bare[0]:.2f} s ({table.bare[1]:.2f} s CPU)\n\n{table}")
    finally:
        shutil.rmtree(place / "out", ignore_errors=True)
        if not options.keep:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
