"""`verify` against a merge and hashing: `python benchmarks/verify.py [--size 1.1] [--methods ties]`.

The checkpoints are those of `stream.py`. In one process, one after the other: the merge without measuring; BLAKE3 of
all parents and of the output; `verify` of the same merge, which does both and compares tensor by tensor. Wall and
processor seconds, and the peak of the process's resident anonymous memory.
"""

import argparse
import json
import resource
import tempfile
import threading
import time
from pathlib import Path

import stream

import hf_merge3h
from hf_merge3h.manifest.files import hash_file


def timed(work):
    peak, done = [0], threading.Event()

    def watch():
        while not done.wait(0.02):
            peak[0] = max(peak[0], stream.anonymous("self"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    result = work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    done.set()
    watcher.join()
    return result, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak[0]


def measure(folder, method):
    recipe, out = stream.recipe(folder, method), folder / "out"
    _, plain, plain_cpu, _ = timed(
        lambda: hf_merge3h.merge_recipe(recipe, folder / "plain", diagnostics=False, progress=False)
    )
    hf_merge3h.merge_recipe(recipe, out, progress=False)
    files = [*folder.glob("[be]*/*.safetensors"), *out.glob("*.safetensors")]
    _, hashing, hashing_cpu, _ = timed(lambda: [hash_file(each) for each in files])
    found, wall, cpu, peak = timed(lambda: hf_merge3h.verify(out, scratch=folder))
    assert found.outcome == "bit-exact", found
    return {
        "method": method, "merge": plain, "hashing": hashing, "verify": wall, "times": wall / (plain + hashing),
        "cpu_merge": plain_cpu, "cpu_hashing": hashing_cpu, "cpu_verify": cpu,
        "cpu_times": cpu / (plain_cpu + hashing_cpu), "peak_anonymous_mb": peak / 1e6,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, choices=stream.SHAPES, default=0.25)
    parser.add_argument("--methods", nargs="+", default=["ties"])
    arguments = parser.parse_args()
    for name in arguments.methods:
        with tempfile.TemporaryDirectory() as place:
            stream.make(Path(place), arguments.size)
            line = measure(Path(place), name)
            print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in line.items()}))
