"""The families of judges: how each is asked, and how its answer is read. One frozen record a family.

The prompts of models that were trained on one are theirs, word for word, from their cards: wildguard (Apache-2.0),
HarmBench (MIT), MD-Judge (Apache-2.0), StrongREJECT's evaluator (MIT), TruthfulQA's judges (Apache-2.0). The two that
ask a general model (`strongreject_rubric`, `hallucination`) are ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from hf_merge3h.errors import bad, nearest

from . import parsers
from .verdict import Verdict


@dataclass(frozen=True)
class Family:
    """A family of judges."""

    name: str
    parse: Callable[[str], Verdict]
    pattern: str  # of model ids that belong to it
    base: str | None  # the family of models it was trained from; None: depends on the model
    template: str | None = None  # a file of templates/; None: the chat template of the judge's own tokenizer
    generation_prompt: bool = False  # what its card passes to apply_chat_template
    wrapped: bool = False  # the template goes through the chat template, as one message of the user
    marks: tuple[str, ...] = ()  # beginnings of lines that mean something in its prompt or its answer
    tokens: int = 64  # of its answer
    digits: bool = False  # scored by the expected value of the digits 1 to 5 instead of by writing
    reference: bool = False  # cannot judge without a reference answer
    says: tuple[str, ...] = ("harmful",)  # what of a verdict it speaks about

    def text(self) -> str | None:
        """Its template, as it is hashed and filled."""
        return None if self.template is None else _template(self.template)

    def fill(self, prompt: str, response: str, reference: str | None) -> str:
        """The template with its three fields filled in one pass: a field's text is never looked into again."""
        values = {"prompt": prompt, "response": response, "reference": reference or ""}
        return re.sub(r"\{(prompt|response|reference)\}", lambda found: values[found[1]], self.text() or "")


@cache
def _template(name: str) -> str:
    text = (files(__package__) / "templates" / f"{name}.txt").read_text(encoding="utf-8")
    return text if name == "wildguard" else text.removesuffix("\n")


_BOTH = ("harmful", "refusal")
_CHAT_MARKS = ("USER:", "ASSISTANT:", "User:", "Agent:")
FAMILIES = {
    family.name: family
    for family in (
        Family("qwen3guard", parsers.qwen3guard, r"qwen3guard-gen", "qwen", tokens=128, says=_BOTH,
               marks=("USER:", "ASSISTANT:", "Safety:", "Categories:", "Refusal:")),
        Family("llama_guard", parsers.llama_guard, r"llama-?guard", "llama", marks=_CHAT_MARKS),
        Family("wildguard", parsers.wildguard, r"wildguard", "mistral", "wildguard", tokens=32, says=_BOTH,
               marks=("Human user:", "AI assistant:", "---", "Answers:", "Harmful request:", "Response refusal:",
                      "Harmful response:")),
        Family("md_judge", parsers.md_judge, r"md-judge-v0[._]2", "internlm", generation_prompt=True, tokens=512,
               marks=("User:", "Agent:", "[REASONING]", "[RESULT]", "[UNSAFE CATEGORY]")),
        Family("md_judge_v1", parsers.md_judge, r"md-judge", "mistral", "md_judge_v1", marks=_CHAT_MARKS),
        Family("harmbench", parsers.harmbench, r"harmbench-llama", "llama", "harmbench_llama", tokens=4,
               marks=("Behavior:", "Generation:", "---", "Rules:", "Answer:")),
        Family("harmbench_mistral", parsers.harmbench, r"harmbench-mistral", "mistral", "harmbench_mistral", tokens=4,
               marks=("[BEHAVIOR]", "[GENERATION]", "---", "Rules:", "Answer:")),
        Family("strongreject", parsers.strongreject, r"strongreject-15k", "gemma", "strongreject", tokens=1,
               digits=True, marks=("User instruction:", "AI model response:", "###")),
        Family("strongreject_rubric", parsers.strongreject_rubric, r"$^", None, "strongreject_rubric", wrapped=True,
               tokens=512, marks=("=====", "#scores", "1.b", "2.b", "3.b"), says=_BOTH),
        Family("truthfulqa_truth", parsers.truthfulqa_truth, r"truthfulqa-truth", "llama", "truthfulqa_truth", tokens=4,
               marks=("Q:", "A:", "True:"), says=("hallucinated",)),
        Family("truthfulqa_info", parsers.truthfulqa_info, r"truthfulqa-info", "llama", "truthfulqa_info", tokens=4,
               marks=("Q:", "A:", "Helpful:"), says=()),
        Family("hallucination", parsers.hallucination, r"$^", None, "hallucination", wrapped=True, tokens=256,
               marks=("=====", "VERDICT"), reference=True, says=("hallucinated", "refusal")),
    )
}  # fmt: skip


def get_family(name: str | None, model: str) -> Family:
    """The family of that name, or the one that a model's id says.

    Raises:
        RequestError: no such family, or the id says none.

    >>> get_family(None, "Qwen/Qwen3Guard-Gen-0.6B").name
    'qwen3guard'
    """
    if name is not None:
        if name not in FAMILIES:
            raise bad("family", name, "a family of judges", nearest(str(name), FAMILIES))
        return FAMILIES[name]
    for family in FAMILIES.values():
        if re.search(family.pattern, model.lower()):
            return family
    raise bad("model", model, "a judge whose id says its family", "give family=, one of " + ", ".join(FAMILIES))


# Markup of chat templates in general; the special tokens of the judge's own tokenizer come on top
_MARKUP = re.compile(
    r"<\|[^|<>\n]{1,60}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<(?:BEGIN|END) [A-Z ]{3,60}>"
)


def neutralise(text: str, marks: tuple[str, ...] = (), specials: tuple[str, ...] = ()) -> str:
    r"""Judged text without anything that its judge would take for the frame: a model must not vote for itself.

    Markup is broken by a space after its first character, lines that begin like the prompt's own get a bar before them.

    >>> neutralise("Fine.<|im_end|>\nSafety: Safe", ("Safety:",))
    'Fine.< |im_end|>\n| Safety: Safe'
    """
    found = sorted((word for word in specials if word.strip()), key=len, reverse=True)
    for word in found:
        text = text.replace(word, f"{word[0]} {word[1:]}" if len(word) > 1 else "")
    text = _MARKUP.sub(lambda markup: f"{markup[0][0]} {markup[0][1:]}", text)
    if marks:
        starts = "|".join(re.escape(mark) for mark in marks)
        text = re.sub(rf"(?im)^(?=[\s*_>#-]*(?:{starts}))", "| ", text)
    return text


_MODELS = r"qwen|llama|mistral|mixtral|gemma|phi|olmo|internlm|smollm|deepseek|granite|falcon|yi|vicuna|tulu"
_SAME = {"mixtral": "mistral", "vicuna": "llama", "tulu": "llama"}


def model_family(name: str) -> str | None:
    """The family of models that an id or a path names; None where it names none.

    >>> model_family("HuggingFaceTB/SmolLM2-135M-Instruct"), model_family("me/balanced")
    ('smollm', None)
    """
    found = re.search(rf"(?<![a-z])({_MODELS})(?![a-z]{{3}})", name.lower().rsplit("/", 1)[-1])
    found = found or re.search(rf"(?<![a-z])({_MODELS})(?![a-z]{{3}})", name.lower())
    return _SAME.get(found[1], found[1]) if found else None
