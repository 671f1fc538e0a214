"""What the sandbox costs: generated programs behind each wall, against plain subprocesses of the same programs.

    python benchmarks/sandbox.py --mbpp mbpp.jsonl [--limit 200] [--workers 2]

The file is MBPP's own (`code`, `test_list`, `test_setup_code`); its reference solutions all pass. Without it, small
programs of the same shape are made up.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from hf_merge3h.sandbox import available, run_programs


def programs(path, limit):
    if path is None:
        return [(f"def f{n}(x):\n    return [x * {n}] * 3\n", f"assert f{n}(2) == {[2 * n] * 3}") for n in range(limit)]
    with open(path, encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines][:limit]
    return [(one["code"], "\n".join([one["test_setup_code"], *one["test_list"]])) for one in records]


def plain(pairs, workers, *options):
    """The same programs as nobody should run them: candidate and tests in one file, the exit code as verdict."""

    def run(pair):
        code = "\n".join(pair)
        return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, timeout=60).returncode == 0

    with ThreadPoolExecutor(workers) as pool:
        return Counter("passed" if passed else "failed" for passed in pool.map(run, pairs))


def timed(function):
    """Result, seconds, CPU seconds of this process and its children."""

    def used():
        both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(one.ru_utime + one.ru_stime for one in both)

    start, before = time.perf_counter(), used()
    result = function()
    return result, time.perf_counter() - start, used() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mbpp", help="MBPP's mbpp.jsonl")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    pairs = programs(options.mbpp, options.limit)
    kinds = [kind for kind, reason in available().items() if not reason]
    ways = {
        "plain subprocesses": lambda: plain(pairs, options.workers),
        "the same, python -I -S": lambda: plain(pairs, options.workers, "-I", "-S"),  # as bare as the sandbox's
    }
    for kind in kinds:
        ways[kind] = lambda kind=kind: Counter(
            one.outcome for one in run_programs(pairs, workers=options.workers, sandbox=kind)
        )
    best = {}
    for _ in range(options.repeats):  # in turns, so that a busy machine is busy for all of them
        for name, way in ways.items():
            result, seconds, cpu = timed(way)
            known = best.get(name, (result, seconds, cpu))
            best[name] = (result, min(seconds, known[1]), min(cpu, known[2]))
    _, floor, floor_cpu = best["plain subprocesses"]
    print(f"{len(pairs)} programs, {options.workers} at a time, best of {options.repeats}")
    for name, (result, seconds, cpu) in best.items():
        ratios = f"{seconds / floor:5.2f} x, CPU {cpu / floor_cpu:5.2f} x"
        print(f"{name:24} {seconds:7.2f} s  {cpu:7.2f} s CPU  {ratios}  {dict(result)}")


if __name__ == "__main__":
    main()
