"""Ask mergekit 0.1.5 how it brings vocabularies together; `test_vocabularies.py` compares ours with it.

Runs in mergekit's own environment, as `make_expectations.py` tells:

    HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ORACLE/bin/python tests/recipes/make_vocabularies.py

It writes tests/recipes/expected/vocabularies.safetensors, the models that it made and what mergekit made of them, and
vocabularies.json, the numbers of the tokens in the output's tokenizers. A union is numbered in the order of its tokens'
texts, and its rows likewise: mergekit numbers it in another order in each run. Running the script again gives the same
bytes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import yaml
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from vocabularies import CASES, VOCABULARIES, save_model

EXPECTED = Path(__file__).parent / "expected"


def main() -> None:
    """Make all expectations."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    from transformers import AutoTokenizer

    tensors, tokens = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        models = {name: save_model(name, root) for name in VOCABULARIES}
        for name, path in models.items():
            tensors |= {f"{name}|{key}": each for key, each in load_file(path / "model.safetensors").items()}
        for case, text in CASES.items():
            out = root / "out" / case
            recipe = MergeConfiguration.model_validate(yaml.safe_load(text.format(**models)))
            run_merge(recipe, str(out), MergeOptions(copy_tokenizer=True, quiet=True, allow_crimes=True))
            numbers = AutoTokenizer.from_pretrained(out).get_vocab()
            texts = sorted(numbers) if "union" in text else sorted(numbers, key=numbers.get)
            tokens[case] = {token: number for number, token in enumerate(texts)}
            order = [numbers[token] for token in texts]
            for file in sorted(out.glob("*.safetensors")):
                found = load_file(file)
                for key in ("model.embed_tokens.weight", "lm_head.weight"):
                    # A row of padding is the mean of the others, summed in the order that was chance.
                    padding = (found[key][len(order) :] * 2**20).round() / 2**20
                    tensors[f"out {case}|{key}"] = torch.cat([found[key][order], padding])
    save_file(tensors, EXPECTED / "vocabularies.safetensors")
    (EXPECTED / "vocabularies.json").write_text(json.dumps(tokens, indent=1) + "\n")


if __name__ == "__main__":
    main()
