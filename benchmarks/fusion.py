"""What decides Arcee Fusion in mergekit: `python benchmarks/fusion.py MERGEKIT_PYTHON BASE EXPERT`.

MERGEKIT_PYTHON is the interpreter of an environment of its own with mergekit 0.1.5; BASE and EXPERT are safetensors
files of equal names. Its own functions are asked for each tensor's mask, in float32 and in float64, with torch's
kernels for AVX2 and for AVX-512, and the masks are compared entry by entry with each other and with ours. Tensors of
more than 1M entries are left out (mergekit draws a sample of them), and so are those that are equal in both files.

Where a tensor has rows, its divergences are one number a row: the table has their median in float64, and by how much
float32's are off at most. The shares are of the entries that the two files do not share.
"""

import argparse
import os
import re
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file

from hf_merge3h import get_method

LARGEST = 1_000_000
THEIRS = """
import sys, torch
from safetensors.torch import load_file, save_file
from mergekit.merge_methods.arcee_fusion import DynamicThresholdFusion, _compute_importance
base, expert, found = load_file(sys.argv[1]), load_file(sys.argv[2]), {}
for name in base:
    if base[name].numel() > int(sys.argv[4]):
        continue
    for bits, dtype in (("32", torch.float32), ("64", torch.float64)):
        old, new = base[name].to(dtype), expert[name].to(dtype)
        importance = _compute_importance(new, old)
        found[f"mask{bits}|{name}"] = DynamicThresholdFusion().compute_fusion_mask(importance)[0].bool()
        # Importance is |change| x divergence: where the change is greatest, the quotient is the row's divergence.
        change, place = (new - old).abs().max(-1, keepdim=True)
        found[f"kl{bits}|{name}"] = (importance.gather(-1, place) / change).double().nan_to_num().contiguous()
save_file(found, sys.argv[3])
"""


def theirs(python, files, kernels):
    """mergekit's masks and divergences of each tensor."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.safetensors")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "ATEN_CPU_CAPABILITY": kernels}
        subprocess.run([python, "-c", THEIRS, *files, out, str(LARGEST)], env=environment, check=True)
        return load_file(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", nargs="?", help="mergekit's interpreter")
    parser.add_argument("files", nargs="*", type=Path, help="BASE EXPERT")
    options = parser.parse_args()
    if options.python is None:  # `make bench` runs all scripts, and this one needs another environment
        print("needs models and an environment that are not here:\n", __doc__)
        return
    if len(options.files) != 2:
        parser.error("expected BASE EXPERT")
    base, expert = (load_file(file) for file in options.files)
    narrow, wide = (theirs(options.python, options.files, kernels) for kernels in ("avx2", "avx512"))
    groups = defaultdict(list)
    for name, old in base.items():
        delta = expert[name].float() - old.float()
        if old.numel() > LARGEST or not delta.any():
            continue
        changed = delta != 0
        ours = get_method("arcee_fusion")(delta[None], base=old.float()) != 0
        exact = wide[f"mask64|{name}"]
        pairs = (
            (narrow[f"mask32|{name}"], wide[f"mask32|{name}"]),
            (narrow[f"mask32|{name}"], exact),
            (wide[f"mask32|{name}"], exact),
            (narrow[f"mask64|{name}"], exact),
            (ours, exact),
        )
        counts = [changed.sum(), (exact & changed).sum(), *(((a != b) & changed).sum() for a, b in pairs)]
        off = (wide[f"kl32|{name}"] - wide[f"kl64|{name}"]).abs()
        groups[re.sub(r".*layers\.\d+\.|\.weight$", "", name)].append(
            (torch.tensor(counts), wide[f"kl64|{name}"].flatten(), off.max())
        )
    print("| tensors | changed | divergence | float32 off by | taken | AVX2, AVX-512 | AVX2, float64 |", end="")
    print(" AVX-512, float64 | float64: AVX2, AVX-512 | ours, float64 |\n| --- |" + " ---: |" * 9)
    for group, found in groups.items():
        counts = sum(each for each, _, _ in found)
        shares = " | ".join(f"{float(each / counts[0]):.5f}" for each in counts[1:])
        median, off = torch.cat([each for _, each, _ in found]).median(), max(each for _, _, each in found)
        print(f"| {group} ({len(found)}) | {counts[0]} | {median:.1e} | {off:.1e} | {shares} |")


if __name__ == "__main__":
    main()
