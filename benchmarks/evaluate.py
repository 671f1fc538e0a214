"""What the evaluation's runner costs over a bare batched `generate` loop on the same prompts.

    OMP_NUM_THREADS=1 python benchmarks/evaluate.py [--limit 32] [--tokens 32] [--batch 8] [--repeats 3]

Prompts are StrongREJECT's in the suite 3h-offline, chat template and all; the model is the demo's base by default.
The bare loop is what one would write by hand: the same greedy `generate` on the same batches, left-padded, sorted by
length, and decoded. In turns in one process, so that a busy machine is busy for both; wall and processor time, best of
the repeats. The runner is timed whole, with its checks, its items on disk, scores and report; beside it, asking alone.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from hf_merge3h.evaluation import asking, run
from hf_merge3h.evaluation.generate import batches, encode, prompt_text
from hf_merge3h.evaluation.items import ask, make_items, select
from hf_merge3h.evaluation.models import opened
from hf_merge3h.evaluation.sources import load
from hf_merge3h.evaluation.suite import Suite, read_suite


def suite(tokens):
    from dataclasses import replace

    whole = read_suite("3h-offline")
    task = replace(whole.tasks["strongreject"], max_new_tokens=tokens)
    return Suite("bench", "", {"strongreject": task}, {}, whole.folder, whole.text)


def bare(model, prompts, tokens, size):
    """Greedy answers, batch by batch."""
    from transformers import GenerationConfig

    pad = model.tokenizer.pad_token_id
    config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=pad,
        eos_token_id=model.model.generation_config.eos_token_id,
    )
    found = {}
    for batch in batches([len(prompt) for prompt in prompts], size):
        rows = [encode(model, prompts[index]) for index in batch]
        width = max(map(len, rows))
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            output = model.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        texts = model.tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        found |= dict(zip(batch, texts, strict=True))
    return [found[index] for index in range(len(prompts))]


def timed(work):
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", help="a folder; the demo's base by default")
    options = parser.parse_args()
    chosen, best, spent = suite(options.tokens), {}, []
    if options.model is None:
        from hf_merge3h.demo import base_model_path

        options.model = base_model_path()
    task = chosen.tasks["strongreject"]
    items = select(make_items(task, load(task, chosen).records), options.limit, 0)
    real = asking._Run._ask_all

    def watched(*arguments):
        _, wall, cpu = timed(lambda: real(*arguments))
        spent.append((wall, cpu))

    asking._Run._ask_all = watched
    with opened("base", options.model, device="cpu") as model:
        prompts = [prompt_text(task, ask(task, item), model) for item in items]
        for turn in range(options.repeats):
            texts, *plain = timed(lambda: bare(model, prompts, options.tokens, options.batch))
            with tempfile.TemporaryDirectory() as out:
                report, *whole = timed(lambda: run.evaluate_3h(
                    {"merged": model.model}, chosen, limit=options.limit, out=Path(out) / "out", device="cpu",
                    tokenizer=model.tokenizer, batch_size=options.batch, progress=False,
                ))  # fmt: skip
            said = report.answers["merged"]["strongreject"]
            assert [said[item.id]["answers"][0] for item in items] == texts, "the answers differ"
            for name, seconds in (("bare loop", plain), ("runner, asking", spent[turn]), ("runner, whole", whole)):
                best[name] = [min(pair) for pair in zip(best.get(name, seconds), seconds, strict=True)]
    wall, cpu = best["bare loop"]
    print(f"{options.limit} prompts, {options.tokens} tokens, batches of {options.batch}, best of {options.repeats}")
    for name, (seconds, used) in best.items():
        print(f"{name:16} {seconds:7.2f} s {used:7.2f} s CPU  {seconds / wall:5.2f} x, CPU {used / cpu:5.2f} x")


if __name__ == "__main__":
    main()
