"""What the lab's `precision: bfloat16` gains on this processor, where it asks models and where it trains them.

    OMP_NUM_THREADS=1 python benchmarks/bfloat16.py [--repeats 3] [--model DIR]

Seconds in one process, best of the repeats: answers of 24 tokens to prompts of 60, and log-likelihoods of 100 tokens
behind 150, in float32, under autocast, and with linear layers rounded once; a step of full fine-tuning on 4 rows of 150
tokens; the head behind the last places as a slice and as indices. The answers of the last two ways have to be equal.
"""

import argparse
import time

import torch
from transformers import AutoModelForCausalLM

from hf_merge3h.lab.comparison.precision import products, round_products

#: the last 101 of 250 places, as a slice and as indices
PLACES = (slice(-101, None), torch.arange(149, 250))


def best(work, repeats):
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def rows(count, width):
    return torch.randint(5, 40_000, (count, width), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def answers(model, count):
    ids = rows(count, 60)
    options = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    return model.generate(input_ids=ids, pad_token_id=0, **options)


@torch.inference_mode()
def likelihoods(model, kept):
    kept = 101 if isinstance(kept, slice) else kept
    return model(input_ids=rows(8, 250), use_cache=False, logits_to_keep=kept).logits


@torch.inference_mode()
def logits(model, kept):
    return model.lm_head(torch.ones(1, 250, model.config.hidden_size)[:, kept])


def trained(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def step():
        ids = rows(4, 150)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", help="a folder; the demo's base by default")
    options = parser.parse_args()
    if options.model is None:
        from hf_merge3h.demo import base_model_path

        options.model = base_model_path()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    for precision in ("float32", "bfloat16"):
        with products(precision):
            print(f"training step, {precision:<10} {best(trained(model), options.repeats):.2f} s")
    model.requires_grad_(False)
    said = {}
    for name, precision in (("float32", "float32"), ("autocast", "bfloat16"), ("rounded", "bfloat16")):
        if name == "rounded":
            round_products(model)
        with products(precision):
            spent = {count: best(lambda count=count: answers(model, count), options.repeats) for count in (16, 32)}
            said[name] = answers(model, 16)
            read = [best(lambda kept=kept: likelihoods(model, kept), options.repeats) for kept in PLACES]
            head = [best(lambda kept=kept: logits(model, kept), 9) for kept in PLACES]
        print(
            f"{name:<9} answers to 16: {spent[16]:.2f} s, to 32: {spent[32]:.2f} s; log-likelihoods of 8: slice "
            f"{read[0]:.2f} s, indices {read[1]:.2f} s; head for a row: {1e3 * head[0]:.0f} ms, {1e3 * head[1]:.0f} ms"
        )
    print("autocast and rounded say the same:", torch.equal(said["autocast"], said["rounded"]))


if __name__ == "__main__":
    main()
