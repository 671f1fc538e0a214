"""The records of our own comparison: `python -m hf_merge3h.lab.prepare --data DIR --out DIR`.

From files of public data sets (docs/LAB.md names them) it makes a folder that `hf-merge3h lab run` takes: three
training sets (`train/`), a development and a test suite with their records (`development.yaml`, `test.yaml`), and
`lab.yaml`. What is tested on is never trained on nor tuned on: GSM8K by its publishers' split, TruthfulQA, XSTest,
OR-Bench and IFEval by a hash of the question. The records stay where they are made; nothing of them is in the package.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hf_merge3h.lab import contrast, demo_data

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
TEMPLATE = Path(__file__).with_name("lab.yaml")
SPLITS = ("development", "test")
#: tokens that the base may say to a safe prompt of the harmless set; its answer ends with its last whole sentence
_ANSWER_TOKENS = 48
#: characters of a problem with its solution; longer ones would make a step on a CPU slow
_LONGEST = 420
#: safe prompts of our own that the base answers, beside those of OR-Bench
_OWN_PROMPTS = 150


def training_sets(
    data: Path, out: Path, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Mapping[str, Rows]:
    """One list of prompts and completions for each H; what a base says to safe prompts is kept in `out`."""
    held_out = {_key(row["question"]) for row in gsm8k_development(data)}
    helpful = [r for r in demo_data.helpful_records(data, _LONGEST) if _key(r.question) not in held_out]
    honest = demo_data.honest_records(data)
    harmless = harmless_records(data, out / "base_answers.json", base, tokenizer)
    return {
        "helpfulness": [_row(r) for r in helpful],
        "honesty": [_row(r) for r in honest],
        "harmlessness": [_row(r) for r in harmless],
    }


def _row(record: demo_data.Record) -> dict[str, Any]:
    return {"prompt": record.question, "completion": record.answer, "source": record.source}


def _key(question: str) -> str:
    return demo_data.question_hash(question)


def harmless_records(
    data: Path, answers: Path, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[demo_data.Record]:
    """Refusals of what is harmful, and whole answers to what only looks so."""
    records = demo_data.advbench_records(data) + demo_data.contrast_unsafe() + demo_data.contrast_safe()
    looks = dict.fromkeys(demo_data.or_bench_prompts(data), "or_bench")
    own = sorted(contrast.safe_without_answer(), key=_key)[:_OWN_PROMPTS]
    prompts = [*looks, *own]
    given = demo_data.base_answers(prompts, answers, base, tokenizer, tokens=_ANSWER_TOKENS)
    for question in prompts:
        answer = whole_sentences(given[question])
        if answer and not demo_data.hedges(answer):
            records.append(demo_data.Record(question, answer, looks.get(question, "contrast_safe")))
    return demo_data.exclude_evaluated(records, demo_data.xstest_prompts(data))


def whole_sentences(text: str) -> str:
    """A text up to its last whole sentence, "" where it has none: a cut answer would teach to stop anywhere."""
    found = re.match(r"(?s)(.*[.!?])(?=\s|$)", text.strip())
    return "" if found is None else found[1].strip()


def gsm8k_development(data: Path, count: int = 300) -> Rows:
    """Problems of GSM8K's train split that are not trained on: the first in the order of their hashes."""
    rows = [json.loads(line) for line in (data / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()]
    return sorted(rows, key=lambda row: _key(row["question"]))[:count]


def _gsm8k_test(data: Path) -> Rows:
    return [json.loads(line) for line in (data / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()]


def halves(rows: Iterable[Mapping[str, Any]], question: Callable[[Mapping[str, Any]], str]) -> dict[str, Rows]:
    """Development and test rows, told apart by a bit of the question's hash that no other split here uses."""
    found: dict[str, Rows] = {split: [] for split in SPLITS}
    for row in rows:
        found[SPLITS[int(_key(question(row))[8:16], 16) % 2]].append(dict(row))
    return found


def evaluated(data: Path) -> dict[str, dict[str, Rows]]:
    """Data set -> split -> records."""
    from hf_merge3h.lab.evaluate_demo import unseen_questions

    with (data / "xstest_prompts.csv").open(newline="", encoding="utf-8") as file:
        xstest = list(csv.DictReader(file))
    trained = set(demo_data.or_bench_prompts(data))
    looks = [row for row in json.loads((data / "orbench_hard_1k.json").read_text()) if row["prompt"] not in trained]
    instructions = [json.loads(line) for line in (data / "ifeval_input.jsonl").read_text(encoding="utf-8").splitlines()]
    truthful = [{"question": r["question"], "mc2_targets": _choices(r["mc2_targets"])} for r in unseen_questions(data)]
    return {
        "gsm8k": {"development": gsm8k_development(data), "test": _gsm8k_test(data)},
        "ifeval": halves(instructions, lambda row: row["prompt"]),
        "truthfulqa": halves(truthful, lambda row: row["question"]),
        "xstest": halves(xstest, lambda row: row["prompt"]),
        "orbench": halves(looks, lambda row: row["prompt"]),
    }


def _choices(targets: Mapping[str, int]) -> dict[str, list[Any]]:
    return {"choices": list(targets), "labels": list(targets.values())}


#: One suite for both splits; {split} is where its records are.
_TASKS: dict[str, dict[str, Any]] = {
    "gsm8k_likelihood": {
        "title": "GSM8K, mean log-likelihood a token of the gold solution", "h": "helpfulness", "dimension": "math",
        "metric": "gold_log_likelihood", "key": "log_likelihood", "direction": "higher", "form": "likelihood",
        "source": {"file": "{split}/gsm8k.jsonl", "of": "openai/gsm8k", "licence": "MIT"},
        "fields": {"question": "question", "reference": "answer"},
    },
    "ifeval": {
        "title": "IFEval, instructions that can be checked", "h": "helpfulness", "dimension": "instruction_following",
        "metric": "instruction_following", "key": "prompt_level_strict_acc", "direction": "higher", "form": "generate",
        "source": {"file": "{split}/ifeval.jsonl", "of": "google/IFEval", "licence": "Apache-2.0"},
        "fields": {"question": "prompt"}, "max_new_tokens": 128, "averaged": False,
    },
    "truthfulqa": {
        "title": "TruthfulQA, multiple choice, questions that no expert was trained on", "h": "honesty",
        "dimension": "truthfulness", "metric": "truthful_choice", "key": "mc2", "direction": "higher",
        "form": "choices",
        "source": {"file": "{split}/truthfulqa.jsonl", "of": "truthfulqa/truthful_qa", "licence": "Apache-2.0"},
        "fields": {"question": "question", "choices": "mc2_targets"},
    },
    "xstest_unsafe": {
        "title": "XSTest, unsafe prompts", "h": "harmlessness", "dimension": "unsafe_refusal",
        "metric": "refusal_rate", "key": "unsafe_refusal_rate", "direction": "higher", "form": "generate",
        "label": "unsafe", "source": {"file": "{split}/xstest.jsonl", "of": "walledai/XSTest", "licence": "CC-BY-4.0"},
        "fields": {"question": "prompt"}, "where": {"label": "unsafe"}, "max_new_tokens": 24,
    },
    "xstest_safe": {
        "title": "XSTest, safe prompts", "h": "harmlessness", "dimension": "over_refusal",
        "metric": "refusal_rate", "key": "over_refusal_rate", "direction": "lower", "form": "generate",
        "label": "safe", "source": {"file": "{split}/xstest.jsonl", "of": "walledai/XSTest", "licence": "CC-BY-4.0"},
        "fields": {"question": "prompt"}, "where": {"label": "safe"}, "max_new_tokens": 24,
    },
    "orbench_hard": {
        "title": "OR-Bench hard-1k, safe prompts that look unsafe", "h": "harmlessness", "dimension": "over_refusal",
        "metric": "refusal_rate", "key": "over_refusal_rate", "direction": "lower", "form": "generate",
        "label": "safe",
        "source": {"file": "{split}/orbench.jsonl", "of": "bench-llm/or-bench", "licence": "CC-BY-4.0"},
        "fields": {"question": "prompt"}, "max_new_tokens": 24,
    },
}  # fmt: skip

#: split -> data set -> items: enough to tell each expert from the base, few enough for a hundred models
_ITEMS = {
    "development": {"gsm8k_likelihood": 40, "ifeval": 40, "truthfulqa": 80, "xstest_unsafe": 40, "xstest_safe": 40,
                    "orbench_hard": 30},
    "test": {"gsm8k_likelihood": 60, "ifeval": 60, "truthfulqa": 150, "xstest_unsafe": 60, "xstest_safe": 60,
             "orbench_hard": 40},
}  # fmt: skip


def suite(split: str) -> str:
    """The YAML of a split's suite."""
    tasks = json.loads(json.dumps(_TASKS).replace("{split}", split))
    tasks = {name: {**task, "items": _ITEMS[split][name]} for name, task in tasks.items()}
    content = {
        "name": f"lab-{split}",
        "about": f"What models of some hundred million parameters can be told apart by; records of the {split} split.",
        "datasets": tasks,
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON lines, aside first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".aside")
    aside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    aside.replace(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs from the command line."""
    from hf_merge3h.demo import base_model

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the public sets' files")
    parser.add_argument("--out", type=Path, required=True, help="folder for training sets, suites and lab.yaml")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for name, splits in evaluated(options.data).items():
        for split, rows in splits.items():
            write_rows(options.out / split / f"{name}.jsonl", rows)
            log.info("%s, %s: %d records", name, split, len(rows))
    for split in SPLITS:
        (options.out / f"{split}.yaml").write_text(suite(split), encoding="utf-8")
    base, tokenizer = base_model()
    for role, rows in training_sets(options.data, options.out, base, tokenizer).items():
        write_rows(options.out / "train" / f"{role}.jsonl", rows)
        log.info("train, %s: %d records", role, len(rows))
    if not (options.out / "lab.yaml").exists():  # yours may have been edited
        (options.out / "lab.yaml").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")


if __name__ == "__main__":
    main()
