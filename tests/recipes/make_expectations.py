"""Ask mergekit 0.1.5 for the results that `test_expectations.py` compares ours with.

Runs in mergekit's own environment, for it is LGPL and pins other versions; nothing of it is copied here:

    python3.11 -m venv ORACLE
    ORACLE/bin/pip install torch==2.13.0
    ORACLE/bin/pip install mergekit==0.1.5
    HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ORACLE/bin/python tests/recipes/make_expectations.py

It writes two files under tests/recipes/expected/: the models that it made (random Llama checkpoints of about 1,700
numbers, whose changes get smaller from layer to layer and are zero in places), and what mergekit made of them,
in float32. Made with torch 2.13.0 and transformers 5.24.0. Running it again gives the same bytes; so do torch 2.14.1,
two threads, and kernels for AVX2 in place of AVX-512 (ATEN_CPU_CAPABILITY=avx2 asks for them). Without either, torch
draws random numbers that differ in the last bit.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES

EXPECTED = Path(__file__).parent / "expected"


def make_models(folder: Path) -> dict[str, Path]:
    """The checkpoints: a base, experts a, b, c, d near it, two models far away, and two whose head is tied."""
    plan = {"base": (0, 0.0), "a": (1, 2e-3), "b": (2, 2e-3), "c": (3, 4e-3), "d": (6, 3e-3), "far": (4, 2e-2)}
    plan |= {"distant": (7, 0.5)}
    plan |= {"tied_base": (0, 0.0), "tied_a": (5, 2e-3)}
    return {
        name: _make_model(folder / name, seed, spread, name.startswith("tied")) for name, (seed, spread) in plan.items()
    }


def _make_model(path: Path, seed: int, spread: float, tied: bool) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=8, intermediate_size=10, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=14, max_position_embeddings=16, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        layer = next((int(part) for part in name.split(".") if part.isdigit()), 0)
        change = torch.randn(parameter.shape, generator=generator) * spread / 4**layer
        # mergekit refuses the MultiSLERP of changes that are all zero: d and far change everything.
        still = (name.endswith("v_proj.weight") and layer == 1 and seed < 4) or (seed == 3 and "mlp.down" in name)
        if not still and seed:
            parameter.data += change
    model.save_pretrained(path)
    return path


def main() -> None:
    """Make all expectations."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    EXPECTED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        models = make_models(root / "models")
        inputs = {
            f"{model}|{name}": tensor
            for model, path in models.items()
            for name, tensor in load_file(path / "model.safetensors").items()
        }
        save_file(inputs, EXPECTED / "models.safetensors")
        results = {}
        for case, text in CASES.items():
            recipe = yaml.safe_load(text.format(**models))
            out = root / "out" / case
            options = MergeOptions(copy_tokenizer=False, quiet=True, allow_crimes=True)
            run_merge(MergeConfiguration.model_validate(recipe), str(out), options)
            for file in sorted(out.glob("*.safetensors")):
                results |= {f"{case}|{name}": tensor for name, tensor in load_file(file).items()}
        save_file(results, EXPECTED / "mergekit-0.1.5.safetensors")


if __name__ == "__main__":
    main()
