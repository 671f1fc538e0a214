"""`verify` against a merge and hashing: `python benchmarks/verify.py [--size 1.1] [--methods ties]`.

The checkpoints are those of `stream.py` (`--folder` takes a folder in which `stream.py --keep` left some). Each of the
three is a process of its own: the merge without measuring; BLAKE3 of all parents and of the output; `verify`, which
does both and compares tensor by tensor. Wall and processor seconds, and the peak of the anonymous memory.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import stream

HASH = """
import pathlib, sys
from hf_merge3h.manifest.files import hash_file
for name in sys.argv[1:]:
    hash_file(pathlib.Path(name))
"""
CLI = [sys.executable, "-m", "hf_merge3h.cli"]


def measure(models, out, method):
    recipe = str(stream.recipe(models, method))
    merge = [*CLI, "merge", recipe, "--quiet", "--device", "cpu"]
    plain = stream.timed([*merge, str(out / "plain"), "--no-diagnostics"])
    stream.timed([*merge, str(out / "merge")])
    files = [*sorted(models.glob("[be]*/*.safetensors")), *(out / "merge").glob("*.safetensors")]
    hashing = stream.timed([sys.executable, "-c", HASH, *map(str, files)])
    verify = stream.timed([*CLI, "verify", str(out / "merge"), "--scratch", str(out)])
    line = {"method": method}
    for name, (wall, cpu, peak) in {"merge": plain, "hashing": hashing, "verify": verify}.items():
        line |= {name: wall, f"{name}_cpu": cpu, f"{name}_mb": peak / 1e6}
    return line | {
        "times": verify[0] / (plain[0] + hashing[0]), "times_cpu": verify[1] / (plain[1] + hashing[1]),
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, choices=stream.SHAPES, default=0.25)
    parser.add_argument("--methods", nargs="+", default=["ties"])
    parser.add_argument("--folder", type=Path, help="has checkpoints of that size, from `stream.py --folder --keep`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        kept = arguments.folder / str(arguments.size) if arguments.folder else Path(place) / "models"
        if arguments.folder is None:
            kept.mkdir()
            stream.make(kept, arguments.size)
        print(f"{arguments.size}B, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for name in arguments.methods:
            with tempfile.TemporaryDirectory(dir=place) as out:
                line = measure(kept, Path(out), name)
                print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in line.items()}), flush=True)
