"""The whole call `peft_model.merge_3h` against PEFT's own `add_weighted_adapter`, on the shapes of SmolLM2-135M.

Three rank-16 adapters over 210 bare linear layers; best of several runs; ratios within one run. `--svd` adds PEFT's
slow one.
"""

from __future__ import annotations

import argparse
import time
import warnings

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import hf_merge3h  # noqa: F401 - gives merge_3h to PeftModel

SHAPES = {
    "q_proj": (576, 576), "k_proj": (192, 576), "v_proj": (192, 576), "o_proj": (576, 576),
    "gate_proj": (1536, 576), "up_proj": (1536, 576), "down_proj": (576, 1536),
}  # fmt: skip
NAMES = ["one", "two", "three"]


def model(layers: int):
    torch.manual_seed(0)
    blocks = [
        nn.ModuleDict({name: nn.Linear(n, m, bias=False) for name, (m, n) in SHAPES.items()}) for _ in range(layers)
    ]
    config = LoraConfig(r=16, target_modules=list(SHAPES))
    peft = get_peft_model(nn.ModuleList(blocks), config, adapter_name=NAMES[0])
    for name in NAMES[1:]:
        peft.add_adapter(name, config)
    with torch.no_grad():
        for key, parameter in peft.named_parameters():
            if "lora_" in key:
                parameter.normal_(0, 0.02)
    return peft


def best(peft, call, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
        peft.delete_adapter("merged")
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--svd", action="store_true", help="PEFT's combination_type='svd' too: some 15 seconds")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    peft = model(arguments.layers)
    print(f"{torch.get_num_threads()} threads, {7 * arguments.layers} modules, three rank-16 adapters")
    rows = {
        f"merge_3h {method}": best(
            peft, lambda: peft.merge_3h(NAMES, method=method, adapter_name="merged", progress=False), arguments.repeats  # noqa: B023
        )
        for method in ("task_arithmetic", "tsv_merge", "r_tsvm")
    }  # fmt: skip
    for kind in ("cat", "svd") if arguments.svd else ("cat",):
        rows[f"PEFT {kind}"] = best(
            peft,
            lambda: peft.add_weighted_adapter(NAMES, [1.0] * 3, "merged", combination_type=kind),  # noqa: B023
            1 if kind == "svd" else arguments.repeats,
        )
    floor = rows["PEFT cat"]
    for name, seconds in rows.items():
        print(f"  {name:26s} {seconds:7.2f} s   {seconds / floor:6.1f} times PEFT's cat")


if __name__ == "__main__":
    main()
