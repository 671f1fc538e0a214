"""The batched path of the spectral methods on a GPU: `python benchmarks/gpu.py`. Without one it says so, and ends."""

import time

import torch

try:
    from .spectral import LLAMA, SMALL, adapters, merge_all
except ImportError:  # run as a script
    from spectral import LLAMA, SMALL, adapters, merge_all


def dense(result):
    return result.dense() if hasattr(result, "dense") else result


def merge_on_gpu(name, groups, like):
    """`merge_all` with what it makes itself (weights, keys, noise) on the GPU too."""
    with torch.device(like):
        merged = merge_all(name, groups)
    torch.cuda.synchronize()
    return merged


def main():
    if not torch.cuda.is_available():
        print("No GPU here: nothing was measured.")
        return
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    for title, shapes in (("SmolLM2-135M", SMALL), ("Llama-3-8B", LLAMA)):
        here = list(adapters(shapes))
        there = [(names, tuple(each.to("cuda") for each in experts), flag) for names, experts, flag in here]
        for name in ("tsv_merge", "r_tsvm", "iso_c", "iso_cts", "knots_ties", "wudi"):
            merge_on_gpu(name, there, "cuda")  # warm
            start = time.perf_counter()
            merged = merge_on_gpu(name, there, "cuda")
            seconds = time.perf_counter() - start
            wanted = dense(merge_all(name, here[:1])[0])
            apart = (
                ((dense(merged[0]).cpu() - wanted).norm() / wanted.norm()).item() if name != "r_tsvm" else float("nan")
            )
            print(f"  {title} {name:12s} {seconds:7.3f} s, apart from the CPU {apart:.1e}", flush=True)


if __name__ == "__main__":
    main()
