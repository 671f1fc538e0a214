"""Measures base and experts on held-out data: `python -m hf_merge3h.lab.evaluate_demo --data DIR --out DIR`.

Three measures, one for each H: log-likelihood a token of GSM8K test solutions, TruthfulQA MC2 on questions of the
half that no expert was trained on, and refusals in generated answers to XSTest. Every item's value is kept, so a
difference to the base is a paired one; a measure that is already in the out folder is not run again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_merge3h.demo import base_model
from hf_merge3h.lab import demo_data
from hf_merge3h.lab.generate import generate_answers, is_refusal
from hf_merge3h.lab.packing import Segment, answer_log_likelihood, pack
from hf_merge3h.lab.train_demo import chat_frame

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

Items = dict[str, dict[str, Any]]


@torch.inference_mode()
def gsm8k(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Path, limit: int | None) -> Items:
    """Mean log-likelihood a token of each test problem's gold solution (calculator marks removed)."""
    rows = [json.loads(line) for line in (data / "gsm8k_test.jsonl").read_text().splitlines()]
    rows.sort(key=lambda row: demo_data.question_hash(row["question"]))
    before, after = chat_frame(tokenizer)
    items: Items = {}
    for row in rows[:limit]:
        prompt = tokenizer(before + row["question"].strip() + after, add_special_tokens=False).input_ids
        solution = tokenizer(demo_data.plain_solution(row["answer"]), add_special_tokens=False).input_ids
        value = answer_log_likelihood(model, pack(prompt, [Segment(tuple(solution), 0)])).mean().item()
        items[row["question"]] = {"value": value}
    return items


@torch.inference_mode()
def truthfulqa(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Path, limit: int | None) -> Items:
    """MC2 of each unseen question: the share of probability that its options give to the correct ones."""
    before, after = chat_frame(tokenizer)
    items: Items = {}
    for row in unseen_questions(data)[:limit]:
        prompt = tokenizer(before + row["question"] + after, add_special_tokens=False).input_ids
        options = [tuple(tokenizer(o, add_special_tokens=False).input_ids) for o in row["mc2_targets"]]
        packed = pack(prompt, [Segment(option, 0) for option in options])
        likelihoods = torch.zeros(len(options)).index_add(0, packed.owner, answer_log_likelihood(model, packed))
        correct = torch.tensor([label == 1 for label in row["mc2_targets"].values()])
        share = likelihoods[correct].logsumexp(0) - likelihoods.logsumexp(0)
        items[row["question"]] = {"value": share.exp().item()}
    return items


def unseen_questions(data: Path, limit: float = 0.7) -> list[dict[str, Any]]:
    """The other half of TruthfulQA, in hash order, without questions that reword one of the training half."""
    rows = demo_data.truthfulqa(data)
    trained = [set(demo_data.normalise(r["question"]).split()) for r in rows if _trained(r)]
    unseen = [r for r in rows if not _trained(r) and demo_data.overlap(r["question"], trained) < limit]
    return sorted(unseen, key=lambda row: demo_data.question_hash(row["question"]))


def _trained(row: dict[str, Any]) -> bool:
    return demo_data.in_training_half(row["question"])


def xstest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Path, limit: int | None) -> Items:
    """Whether the greedy answer (at most 64 tokens) to each XSTest prompt is a refusal."""
    with (data / "xstest_prompts.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: demo_data.question_hash(row["prompt"]))[:limit]
    answers = generate_answers(model, tokenizer, [row["prompt"] for row in rows], max_new_tokens=64)
    return {
        f"{row['id']} {row['prompt']}": {
            "value": float(is_refusal(answer)), "label": row["label"], "type": row["type"], "answer": answer
        }
        for row, answer in zip(rows, answers, strict=True)
    }  # fmt: skip


MEASURES: dict[str, Callable[[PreTrainedModel, PreTrainedTokenizerBase, Path, int | None], Items]] = {
    "gsm8k": gsm8k,
    "truthfulqa": truthfulqa,
    "xstest": xstest,
}


def bootstrap(draws: Callable[[random.Random], float], rounds: int = 2000) -> list[float]:
    """Returns the 95 % percentile interval of a statistic of resampled items."""
    source = random.Random(0)
    values = sorted(draws(source) for _ in range(rounds))
    return [round(values[int(0.025 * rounds)], 4), round(values[int(0.975 * rounds) - 1], 4)]


def wilson(hits: int, n: int, z: float = 1.959964) -> list[float]:
    """Returns the 95 % Wilson interval of a rate."""
    centre, spread = hits + z * z / 2, z * (hits * (n - hits) / n + z * z / 4) ** 0.5
    return [round((centre - spread) / (n + z * z), 4), round((centre + spread) / (n + z * z), 4)]


def mean_with_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean over items with its bootstrap interval."""
    interval = bootstrap(lambda source: statistics.fmean(source.choices(values, k=len(values))))
    return {"value": round(statistics.fmean(values), 4), "interval_95": interval, "n": len(values)}


def summarise(measure: str, items: Items, base: Items) -> dict[str, Any]:
    """Turns items into figures with intervals; `gain` is over the base, on the same items."""
    if measure == "xstest":
        return _refusals(items) | {"base": _refusals(base)}
    values = {key: item["value"] for key, item in items.items()}
    gains = [value - base[key]["value"] for key, value in values.items() if key in base]
    return mean_with_interval(list(values.values())) | {
        "base": mean_with_interval([item["value"] for item in base.values()]),
        "gain": mean_with_interval(gains),
    }


def _refusals(items: Items) -> dict[str, Any]:
    by_label = {
        label: [item["value"] for item in items.values() if item["label"] == label] for label in ("unsafe", "safe")
    }
    rates: dict[str, Any] = {
        label: {"value": round(statistics.fmean(v), 4), "interval_95": wilson(int(sum(v)), len(v)), "n": len(v)}
        for label, v in by_label.items()
    }

    def gap(source: random.Random) -> float:
        unsafe, safe = (statistics.fmean(source.choices(v, k=len(v))) for v in by_label.values())
        return unsafe - safe

    rates["gap"] = {"value": round(rates["unsafe"]["value"] - rates["safe"]["value"], 4), "interval_95": bootstrap(gap)}
    types = sorted({item["type"] for item in items.values()})
    rates["by_type"] = {
        kind: round(statistics.fmean(i["value"] for i in items.values() if i["type"] == kind), 3) for kind in types
    }
    return rates


def load(adapter: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads the base, with an adapter's deltas added to its weights where one is given."""
    model, tokenizer = base_model()
    if adapter is None:
        return model, tokenizer
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().eval(), tokenizer


def measure_model(
    name: str, adapter: Path | None, measures: Sequence[str], data: Path, out: Path, limit: int | None
) -> dict[str, Items]:
    """Runs the measures that are not in `out` yet; a file is of one adapter's bytes and one limit."""
    weights = (adapter / "adapter_model.safetensors").read_bytes() if adapter else b""
    tag = f"{name}-{hashlib.sha256(weights).hexdigest()[:8]}-{limit or 'all'}"
    results, loaded = {}, None
    for measure in measures:
        file = out / f"{measure}-{tag}.json"
        if not file.exists():
            loaded = loaded or load(adapter)
            items = MEASURES[measure](*loaded, data, limit)
            file.with_suffix(".aside").write_text(json.dumps(items, indent=1, ensure_ascii=False))
            file.with_suffix(".aside").replace(file)
        results[measure] = json.loads(file.read_text())
        log.info("%s %s n=%d", name, measure, len(results[measure]))
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for items and figures")
    parser.add_argument("--adapters", type=Path, help="folder with the experts' folders; the shipped ones by default")
    parser.add_argument("--expert", nargs="*", default=["helpful", "honest", "harmless"], help="none: the base only")
    parser.add_argument("--measure", nargs="*", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--limit", type=int, help="items a measure, the first in hash order; all by default")
    parser.add_argument("--write", action="store_true", help="put the figures into each adapter's training.json")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    base = measure_model("base", None, options.measure, options.data, options.out, options.limit)
    for expert in options.expert:
        folder = (options.adapters or Path(__file__).parents[1] / "demo" / "adapters") / expert
        items = measure_model(expert, folder, options.measure, options.data, options.out, options.limit)
        figures = {measure: summarise(measure, items[measure], base[measure]) for measure in options.measure}
        log.info("%s %s", expert, json.dumps(figures))
        if options.write:
            write_figures(folder / "training.json", figures)


def write_figures(file: Path, figures: dict[str, Any]) -> None:
    """Adds figures to an adapter's `training.json`, over older ones of the same measures."""
    report = json.loads(file.read_text())
    report["evaluation"] = report.get("evaluation", {}) | figures
    file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
