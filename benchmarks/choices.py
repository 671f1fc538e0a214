"""Multiple choices in one row of tokens behind their question, against a padded row of prefix and text for each.

    OMP_NUM_THREADS=1 python benchmarks/choices.py [--limit 12] [--repeats 3] [--model DIR]

Questions are those of TruthfulQA in the suite 3h-offline, through the chat template, of the demo's base by default. In
turns in one process: wall and processor time, best of the repeats, and how far apart the scores are, which is rounding.
"""

import argparse
import time

from hf_merge3h.evaluation.generate import prompt_text
from hf_merge3h.evaluation.items import ask, make_items, select
from hf_merge3h.evaluation.likelihood import continuations, token_scores
from hf_merge3h.evaluation.models import opened
from hf_merge3h.evaluation.packing import packed_scores, rooms
from hf_merge3h.evaluation.sources import load
from hf_merge3h.evaluation.suite import read_suite

SIZE = 8  # texts at a time


def packed(model, before, after):
    rows = [scores for room in rooms(after, SIZE) for scores in packed_scores(model, before, room)[0]]
    return [float(row.sum()) for row in rows]


def apart(model, before, after):
    pairs = [(before, part) for part in after]
    parts = (pairs[start : start + SIZE] for start in range(0, len(pairs), SIZE))
    return [float(row.sum()) for part in parts for row in token_scores(model, part)[0]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", help="a folder; the demo's base by default")
    options = parser.parse_args()
    if options.model is None:
        from hf_merge3h.demo import base_model_path

        options.model = base_model_path()
    suite = read_suite("3h-offline")
    task = suite.tasks["truthfulqa"]
    items = select(make_items(task, load(task, suite).records), options.limit, 0)
    best, scores, tokens = {}, {}, 0
    with opened("base", options.model, device="cpu") as model:
        asked = [continuations(model, prompt_text(task, ask(task, item), model), item.choices) for item in items]
        tokens = sum(len(before) + sum(map(len, after)) for before, _, after in asked)
        for _ in range(options.repeats):
            for way in (apart, packed):
                wall, cpu = time.perf_counter(), time.process_time()
                scores[way] = [way(model, before, after) for before, _, after in asked]
                spent = time.perf_counter() - wall, time.process_time() - cpu
                best[way] = tuple(map(min, zip(best.get(way, spent), spent, strict=True)))
    pairs = [
        (one, other)
        for first, second in zip(scores[apart], scores[packed], strict=True)
        for one, other in zip(first, second, strict=True)
    ]
    print(f"{len(items)} questions, {len(pairs)} choices, {tokens} tokens with each prefix once")
    for way, (wall, cpu) in best.items():
        print(f"{way.__name__:8} {wall:6.2f} s, {cpu:6.2f} s CPU, {wall / best[packed][0]:5.2f} x")
    print(f"largest difference of a choice: {max(abs(one - other) for one, other in pairs):.1e} nats")


if __name__ == "__main__":
    main()
