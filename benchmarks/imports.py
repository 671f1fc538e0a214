"""What it costs to import us: `python benchmarks/imports.py`. Best of several, each in a fresh interpreter.

Ratios are within one run, so a loaded machine tells the same story.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 7
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import hf_merge3h": ["-c", "import hf_merge3h"],
    "hf-merge3h --help": ["-m", "hf_merge3h.cli", "--help"],
    "import torch": ["-c", "import torch"],
}
BOUNDS = {"import hf_merge3h": 0.15, "hf-merge3h --help": 0.5}


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    best = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(REPEATS):  # in turn, so that a busy moment hits all alike
        for name, arguments in COMMANDS.items():
            best[name] = min(best[name], seconds(arguments))
    bare, torch = best["python -c pass"], best["import torch"]
    print("| command | seconds | less bare python | share of `import torch` | bound |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, value in best.items():
        bound = f"{BOUNDS[name]:g}" if name in BOUNDS else ""
        print(f"| `{name}` | {value:.3f} | {value - bare:.3f} | {(value - bare) / (torch - bare):.3f} | {bound} |")


if __name__ == "__main__":
    main()
