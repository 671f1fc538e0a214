"""What the lab's training gains, on a CPU, by asking the head for the answers alone, against TRL's own loss.

    OMP_NUM_THREADS=1 python benchmarks/training.py [--repeats 3] [--prompt 90] [--answer 60]

Seconds of the loss and its gradients for 4 rows of SmolLM2-135M-Instruct, best of the repeats, in one process; the
optimizer's step, which is the same for both, is not among them.
"""

import argparse
import tempfile
import time

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from hf_merge3h.demo import base_model_path
from hf_merge3h.lab.comparison.precision import products
from hf_merge3h.lab.comparison.sft import trainer_class


def batch(prompt, answer, rows=4):
    ids = torch.randint(5, 40_000, (rows, prompt + answer), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :prompt] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def trainer_of(kind, base, folder):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    settings = SFTConfig(
        output_dir=folder, use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=None,
        activation_checkpointing=False,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": "What is 1 + 1?", "completion": " 2."}])
    return kind(model=model, args=settings, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(base))


def seconds(trainer, inputs, precision):
    start = time.perf_counter()
    with products(precision):
        loss = trainer.compute_loss(trainer.model, dict(inputs))
    loss.backward()
    trainer.model.zero_grad()
    return time.perf_counter() - start, float(loss)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("repeats", 3), ("prompt", 90), ("answer", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    inputs = batch(options.prompt, options.answer)
    with tempfile.TemporaryDirectory() as folder:
        trainers = [trainer_of(kind, base_model_path(), folder) for kind in (SFTTrainer, trainer_class())]
        for precision in ("float32", "bfloat16"):
            runs = [[seconds(trainer, inputs, precision) for _ in range(options.repeats)] for trainer in trainers]
            (theirs, loss), (ours, same) = (min(each) for each in runs)
            print(
                f"{precision:<8}  TRL {theirs:.2f} s, answers alone {ours:.2f} s: {theirs / ours:.2f} times as fast; "
                f"loss {loss:.5f}, {same:.5f}"
            )


if __name__ == "__main__":
    main()
