"""Merges on a GPU beside the same on this machine's processor: `python benchmarks/gpu.py [adapters] [dense] [whole]`.

adapters: the batched path, three rank-16 adapters on all linear layers of SmolLM2-135M and Llama-3-8B.
dense: full deltas of one layer of a 1.1B model, R-TSVM and TSV merging, ours and as published.
whole: live merges of whole models of SmolLM2-135M's shapes; those methods of --cpu on the processor too.
The first two are run once to warm up. "apart" is relative to the processor's result. Without a GPU it says so.
"""

import argparse
import copy
import time
import warnings

import torch

try:
    from .spectral import LAYER, LLAMA, SMALL, adapters, merge_all
except ImportError:  # run as a script
    from spectral import LAYER, LLAMA, SMALL, adapters, merge_all

import hf_merge3h
from hf_merge3h import get_method

ROLES = ("helpfulness", "honesty", "harmlessness")
SPECTRAL = ("tsv_merge", "r_tsvm", "iso_c", "iso_cts", "knots_ties", "wudi")
SMOLLM = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip


def dense(result):
    return result.dense() if hasattr(result, "dense") else result


def timed(function):
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = function()
    torch.cuda.synchronize()
    return time.perf_counter() - start, result


def on_gpu(name, groups, **parameters):
    """`merge_all` with what it makes itself (weights, keys, noise) on the GPU too."""
    with torch.device("cuda"):
        return merge_all(name, groups, **parameters)


def apart(found, wanted):
    return ((dense(found).cpu() - dense(wanted)).norm() / dense(wanted).norm()).item()


def run_adapters():
    for title, shapes in (("SmolLM2-135M", SMALL), ("Llama-3-8B", LLAMA)):
        here = list(adapters(shapes))
        there = [(names, tuple(each.to("cuda") for each in experts), flag) for names, experts, flag in here]
        print(f"{title}: {sum(count for *_, count in shapes.values())} modules, three rank-16 adapters")
        for name in SPECTRAL:
            timed(lambda: on_gpu(name, there))  # noqa: B023
            seconds, merged = timed(lambda: on_gpu(name, there))  # noqa: B023
            beside, wanted = timed(lambda: merge_all(name, here))  # noqa: B023
            print(
                f"  {name:12s} {seconds:7.3f} s, processor {beside:7.3f} s ({beside / seconds:5.1f} times), "
                f"apart {max(map(apart, merged, wanted)):.1e}",
                flush=True,
            )


def run_dense():
    print("one layer of 1.1B, three full-rank experts")
    cases = (("tsv_merge", {}), ("r_tsvm", {}), ("tsv_merge", {"reference": True}))
    totals = {}
    for label, (m, n, count) in LAYER.items():
        deltas = 1e-3 * torch.randn(3, count, m, n, generator=torch.Generator().manual_seed(0))
        names = tuple(f"layers.{i}.{label}.weight" for i in range(count))
        here, there = [(names, deltas, True)], [(names, deltas.cuda(), True)]
        for name, parameters in cases:
            timed(lambda: on_gpu(name, there, **parameters))  # noqa: B023
            seconds, (merged,) = timed(lambda: on_gpu(name, there, **parameters))  # noqa: B023
            beside, (wanted,) = timed(lambda: merge_all(name, here, **parameters))  # noqa: B023
            known = totals.setdefault((name, *parameters), [0.0, 0.0, 0.0])
            totals[name, *parameters] = [known[0] + seconds, known[1] + beside, max(known[2], apart(merged, wanted))]
    for (name, *more), (seconds, beside, off) in totals.items():
        print(
            f"  {' '.join([name, *more]):20s} {seconds:7.3f} s, processor {beside:7.2f} s "
            f"({beside / seconds:5.1f} times), apart {off:.1e}",
            flush=True,
        )


def family():
    """A base of SmolLM2-135M's shapes and three whole experts close to it, random."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SMOLLM)).eval()
    experts = []
    for seed in range(3):
        expert = copy.deepcopy(base)
        generator = torch.Generator().manual_seed(1 + seed)
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter += 1e-3 * torch.randn(parameter.shape, generator=generator)
        experts.append(expert)
    return base, experts


def live(base, experts, name, device):
    """Seconds of a live merge of a copy, with its report, and one merged matrix's change."""
    low, high = get_method(name).experts
    count = max(low, min(3, high or 3))
    model = copy.deepcopy(base).to(device)
    place = "model.layers.7.mlp.down_proj.weight"
    before = model.state_dict()[place].clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds, _ = timed(
            lambda: model.merge_3h(
                dict(zip(ROLES, experts[:count], strict=False)), method=name, device=device, progress=False
            )
        )
    return seconds, (model.state_dict()[place] - before).cpu()


def run_whole(names, processor):
    base, experts = family()
    there = [copy.deepcopy(expert).cuda() for expert in experts]
    size = sum(parameter.numel() for parameter in base.parameters())
    print(f"whole models of {size / 1e6:.0f}M, {len(experts)} experts on the GPU, with diagnostics")
    live(base, there, "linear", "cuda")
    for name in names:
        torch.cuda.reset_peak_memory_stats()
        seconds, change = live(base, there, name, "cuda")
        line = f"  {name:18s} {seconds:7.2f} s, {torch.cuda.max_memory_allocated() / 1e9:5.1f} GB"
        if name in processor:
            beside, wanted = live(base, experts, name, "cpu")
            line += f", processor {beside:7.2f} s ({beside / seconds:5.1f} times), apart {apart(change, wanted):.1e}"
        print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["adapters", "dense", "whole"])
    parser.add_argument("--cpu", nargs="*", default=["linear", "ties", "r_tsvm"], help="methods timed there too")
    known = [method.name for method in hf_merge3h.list_methods()]
    parser.add_argument("--methods", nargs="*", default=known, help="of whole models")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("No GPU here: nothing was measured.")
        return
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, {torch.get_num_threads()} threads beside it")
    if "adapters" in arguments.parts:
        run_adapters()
    if "dense" in arguments.parts:
        run_dense()
    if "whole" in arguments.parts:
        run_whole(arguments.methods, arguments.cpu)


if __name__ == "__main__":
    main()
