"""Spectral methods against their peers, ratios within one run: `python benchmarks/spectral.py [small] [llama] [dense]`.

small: three rank-16 adapters on all 210 linear layers of SmolLM2-135M. llama: on the 224 of Llama-3-8B.
dense: full deltas of one layer of a 1.1B model, against the published procedure (T + 2 SVDs a matrix).
Peers on the adapters (PEFT's `svd`, dense TSV-M) are timed on one module of each shape and extrapolated by the number
of modules; the table says so. Use it on idle cores: with other load, two threads spin against each other and SVDs
become up to ten times slower, which flatters us. On busy ones OMP_NUM_THREADS=1 and --cpu count processor time.
"""

import argparse
import time
import warnings

import torch

from hf_merge3h import LowRank, get_method
from hf_merge3h.apply import gather, merge_stack

SMALL = {"q, o": (576, 576, 60), "k, v": (192, 576, 60), "gate, up": (1536, 576, 60), "down": (576, 1536, 30)}
LLAMA = {"q, o": (4096, 4096, 64), "k, v": (1024, 4096, 64), "gate, up": (14336, 4096, 64), "down": (4096, 14336, 32)}
LAYER = {"q, o": (2048, 2048, 2), "k, v": (256, 2048, 2), "gate, up": (5632, 2048, 2), "down": (2048, 5632, 1)}
ENTRIES = 1 << 22  # of one expert's factors that go into one batch


clock = time.perf_counter


def timed(function, repeats=1):
    best = float("inf")
    for _ in range(repeats):
        start = clock()
        result = function()
        best = min(best, clock() - start)
    return best, result


def adapters(shapes, rank=16, n_experts=3):
    """Groups as the engine makes them: same-shaped modules in batches of limited size."""
    generator = torch.Generator().manual_seed(0)
    for label, (m, n, count) in shapes.items():
        size = max(1, ENTRIES // ((m + n) * rank))
        for start in range(0, count, size):
            batch = min(size, count - start)
            experts = tuple(
                LowRank(
                    0.01 * torch.randn(batch, m, rank, generator=generator),
                    torch.randn(batch, rank, n, generator=generator),
                )
                for _ in range(n_experts)
            )
            yield tuple(f"layers.{start + i}.{label}.weight" for i in range(batch)), experts, True


def merge_all(name, groups, n_experts=3, **parameters):
    """The whole work of a method over groups: its first pass, if it has one, and all merges."""
    method = get_method(name)
    bound = method.bind(parameters, n_experts)
    statistics = gather(method, bound, n_experts, groups)
    weights = torch.ones(n_experts)
    results = []
    for names, vectors, spectral in groups:
        supplied = {
            "names": names, "statistics": statistics, "noise": torch.zeros(len(names)),
            "keys": torch.zeros(n_experts, len(names), dtype=torch.int64),
        }  # fmt: skip
        results.append(merge_stack(method, vectors, weights, bound, supplied, spectral=spectral))
    return results


def peft_svd(shape, experts):
    """PEFT's add_weighted_adapter(combination_type="svd") on one bare linear layer."""
    from peft import LoraConfig, get_peft_model

    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(shape[1], shape[0], bias=False)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rank = experts[0].rank
        model = get_peft_model(Bare(), LoraConfig(r=rank, lora_alpha=rank, target_modules=["linear"]), "e0")
        for number in range(1, len(experts)):
            model.add_adapter(f"e{number}", LoraConfig(r=rank, lora_alpha=rank, target_modules=["linear"]))
        layer = model.base_model.model.linear
        for number, expert in enumerate(experts):
            layer.lora_A[f"e{number}"].weight.data.copy_(expert.right[0])
            layer.lora_B[f"e{number}"].weight.data.copy_(expert.left[0])
        names = [f"e{number}" for number in range(len(experts))]
        return timed(lambda: model.add_weighted_adapter(names, [1.0] * len(names), "m", combination_type="svd"))[0]


def peers(shapes, largest):
    """Seconds a module of each shape: PEFT's svd, the published TSV-M; skipped above `largest` entries."""
    totals = {"PEFT svd": 0.0, "dense TSV-M": 0.0}
    for label, (m, n, count) in shapes.items():
        if m * n > largest:
            print(f"  {label}: {m} x {n} not measured (--largest), left out of the sums below")
            continue
        _, experts, _ = next(adapters({label: (m, n, 1)}))
        dense = torch.stack([expert.dense() for expert in experts])
        published, _ = timed(lambda: get_method("tsv_merge").function(dense, torch.ones(3), reference=True))  # noqa: B023
        svd = peft_svd((m, n), experts)
        group = [((label,), experts, True)]
        ours, _ = timed(lambda: merge_all("tsv_merge", group), 3)  # noqa: B023
        print(
            f"  {label}: {m} x {n}: PEFT svd {svd:.3f} s, dense TSV-M {published:.3f} s, ours {ours:.4f} s a module "
            f"({svd / ours:.0f} and {published / ours:.0f} times)"
        )
        totals["PEFT svd"] += count * svd
        totals["dense TSV-M"] += count * published
    return totals


def run_adapters(title, shapes, repeats, largest):
    print(f"{title}: {sum(count for *_, count in shapes.values())} modules, three rank-16 adapters")
    groups = list(adapters(shapes))
    for name in ("tsv_merge", "r_tsvm", "iso_c", "iso_cts", "knots_ties", "wudi"):
        seconds, _ = timed(lambda: merge_all(name, groups), repeats)  # noqa: B023
        print(f"  {name:12s} {seconds:8.2f} s")
    if largest:
        for name, seconds in peers(shapes, largest).items():
            print(f"  {name:12s} {seconds:8.1f} s (extrapolated from one module a shape)")


def run_dense(shapes):
    """Random deltas of full rank; each group of same-shaped matrices is one batch."""
    print("dense, one layer, three full-rank experts")
    totals = dict.fromkeys(("ours", "r_tsvm", "reference"), 0.0)
    for label, (m, n, count) in shapes.items():
        deltas = 1e-3 * torch.randn(3, count, m, n, generator=torch.Generator().manual_seed(0))
        groups = [(tuple(f"layers.{i}.{label}.weight" for i in range(count)), deltas, True)]
        ours, (merged,) = timed(lambda: merge_all("tsv_merge", groups))  # noqa: B023
        merged = merged.dense()
        adaptive, _ = timed(lambda: merge_all("r_tsvm", groups))  # noqa: B023
        reference, (published,) = timed(lambda: merge_all("tsv_merge", groups, reference=True))  # noqa: B023
        apart = ((merged - published.dense()).norm() / merged.norm()).item()
        row = {"ours": ours, "r_tsvm": adaptive, "reference": reference}
        totals = {name: totals[name] + row[name] for name in totals}
        print(
            f"  {label:9s} {m} x {n} x {count}: tsv_merge {ours:6.2f} s, r_tsvm {adaptive:6.2f} s, reference "
            f"{reference:6.2f} s, apart {apart:.1e}",
            flush=True,
        )
    print(
        f"  layer: tsv_merge {totals['ours']:.1f} s, reference {totals['reference']:.1f} s "
        f"({totals['reference'] / totals['ours']:.2f} times); r_tsvm {totals['r_tsvm'] / totals['ours']:.2f} x"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", choices=["small", "llama", "dense", []], default=["small", "llama", "dense"]
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--largest", type=float, default=2**24, help="entries of a module on which peers are timed; 0: none"
    )
    parser.add_argument("--cpu", action="store_true", help="seconds of processor time, of all threads")
    arguments = parser.parse_args()
    global clock
    clock = time.process_time if arguments.cpu else clock
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads (OMP_NUM_THREADS), {clock.__name__}")
    if "small" in arguments.parts:
        run_adapters("SmolLM2-135M", SMALL, arguments.repeats, arguments.largest)
    if "llama" in arguments.parts:
        run_adapters("Llama-3-8B", LLAMA, 1, arguments.largest)
    if "dense" in arguments.parts:
        run_dense(LAYER)


if __name__ == "__main__":
    main()
