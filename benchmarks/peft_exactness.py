"""How far PEFT's `add_weighted_adapter` is from what it names, and how far we are.

    python benchmarks/peft_exactness.py

One Linear layer, three LoRA adapters of rank 8. The truth for a combination type is its own formula (the functions of
`peft.utils.merge_utils`, no cross terms, no rank cut) over the adapters' effective deltas; an effective delta is
`merge_and_unload` minus base. An error is the Frobenius norm of the difference over that of the truth. What draws
random masks is averaged over many draws first: its mean has to be the weighted sum.
"""

from __future__ import annotations

import copy
import platform
import time
import warnings

import peft
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import merge_utils
from torch import Tensor, nn

import hf_merge3h

SIDE, RANK, DENSITY, DRAWS = 256, 8, 0.5, 200
ADAPTERS, WEIGHTS = ["helpful", "honest", "harmless"], [1.0, 1.0, 1.0]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIDE, SIDE)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs)


def model(**options: object) -> peft.PeftModel:
    """Three adapters with random factors."""
    torch.manual_seed(0)
    config = LoraConfig(**{"r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["linear"], **options})
    wrapped = get_peft_model(Layer(), config, adapter_name=ADAPTERS[0])
    for name in ADAPTERS[1:]:
        wrapped.add_adapter(name, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in wrapped.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 50)
            elif "magnitude" in name:  # a trained DoRA magnitude is near the base's, not on it
                tensor.mul_(1 + torch.randn(tensor.shape, generator=generator) / 100)
    return wrapped


def change(wrapped: peft.PeftModel, adapter: str) -> tuple[Tensor, Tensor]:
    """An adapter's effective delta of weight and bias."""
    aside = copy.deepcopy(wrapped)
    aside.set_adapter(adapter)
    base = aside.get_base_model().linear.base_layer
    weight, bias = base.weight.detach().clone(), base.bias.detach().clone()
    merged = aside.merge_and_unload().linear
    return merged.weight.detach() - weight, merged.bias.detach() - bias


def by_peft(kind: str, wrapped: peft.PeftModel, **options: object) -> tuple[Tensor, Tensor]:
    aside = copy.deepcopy(wrapped)
    aside.add_weighted_adapter(ADAPTERS, WEIGHTS, "merged", combination_type=kind, **options)
    return change(aside, "merged")


def by_us(method: str, wrapped: peft.PeftModel, **options: object) -> tuple[Tensor, Tensor]:
    aside = copy.deepcopy(wrapped)
    aside.merge_3h(ADAPTERS, method=method, weights=WEIGHTS, adapter_name="ours", progress=False, **options)
    return change(aside, "ours")


def error(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def truth(kind: str, deltas: list[Tensor]) -> Tensor:
    weights = torch.tensor(WEIGHTS)
    kind = kind.removesuffix("_svd")
    if kind in ("ties", "magnitude_prune"):
        return getattr(merge_utils, kind)(deltas, weights, DENSITY)
    return merge_utils.task_arithmetic(deltas, weights)


def rows() -> list[tuple[str, str, str, str]]:
    """combination type, PEFT's error, our call, our error."""
    wrapped = model()
    deltas = [change(wrapped, name)[0] for name in ADAPTERS]
    ours = {
        "svd": ("task_arithmetic", {}),
        "linear": ("task_arithmetic", {}),
        "cat": ("task_arithmetic", {}),
        "ties": ("ties", {"density": DENSITY, "rank": "exact"}),
        "magnitude_prune": ("breadcrumbs", {"density": DENSITY, "gamma": 0.0, "rank": "exact"}),
    }
    table = []
    for kind in ("svd", "linear", "cat", "ties", "ties_svd", "magnitude_prune", "magnitude_prune_svd"):
        options = {} if kind in ("svd", "linear", "cat") else {"density": DENSITY}
        method, parameters = ours[kind.removesuffix("_svd")]
        call = ", ".join([method, *(f"{name}={value!r}" for name, value in parameters.items())])
        expected = truth(kind, deltas)
        theirs = error(by_peft(kind, wrapped, **options)[0], expected)
        table.append((kind, f"{theirs:.1%}", call, f"{error(by_us(method, wrapped, **parameters)[0], expected):.1g}"))
    mean = truth("linear", deltas)
    for kind, method in (("dare_linear", "dare_linear"), ("dare_linear_svd", "dare_linear")):
        torch.manual_seed(0)
        theirs = sum(by_peft(kind, wrapped, density=DENSITY)[0] for _ in range(DRAWS)) / DRAWS
        record = hf_merge3h.get_method(method)
        stack = torch.stack(deltas)
        drawn = sum(record(stack, density=DENSITY, seed=seed) for seed in range(DRAWS)) / DRAWS
        table.append((kind, f"{error(theirs, mean):.1%} (mean)", method, f"{error(drawn, mean):.1%} (mean)"))
    return table


def kinds_of_adapter() -> list[tuple[str, str, str]]:
    """What is merged by `cat`, exact for plain LoRA, and by us where adapters are of another kind."""
    table = []
    for label, options in (
        ("plain LoRA", {}),
        ("rsLoRA", {"use_rslora": True}),
        ("DoRA", {"use_dora": True}),
        ("lora_bias", {"lora_bias": True}),
    ):
        wrapped = model(**options)
        changes = [change(wrapped, name) for name in ADAPTERS]
        inputs = torch.randn(64, SIDE, generator=torch.Generator().manual_seed(2))

        def outputs(weight: Tensor, bias: Tensor, inputs: Tensor = inputs) -> Tensor:
            return inputs @ weight.mT + bias

        expected = sum(outputs(*each) for each in changes)
        cells = []
        for merge, kind in ((by_peft, "cat"), (by_us, "task_arithmetic")):
            try:
                cells.append(f"{error(outputs(*merge(kind, wrapped)), expected):.2g}")
            except Exception as failure:  # what cannot be done is a result too
                cells.append(f"{type(failure).__name__}: {failure}"[:80])
        table.append((label, *cells))
    return table


def main() -> None:
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    print(f"PEFT {peft.__version__}, torch {torch.__version__}, {platform.machine()}; {SIDE} x {SIDE}, rank {RANK}\n")
    print("| `combination_type` | PEFT's error | ours | our error |\n| --- | ---: | --- | ---: |")
    for kind, theirs, call, our in rows():
        print(f"| `{kind}` | {theirs} | `{call}` | {our} |")
    print("\n| three adapters of kind | error of outputs, PEFT `cat` | ours |\n| --- | ---: | ---: |")
    for label, theirs, our in kinds_of_adapter():
        print(f"| {label} | {theirs} | {our} |")
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
