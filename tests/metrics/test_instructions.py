"""Each of IFEval's 25 instructions, followed and not, by hand; the official checkers give the same verdicts."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hf_merge3h import RequestError
from hf_merge3h.metrics import get
from hf_merge3h.metrics.checkers import CHECKERS, follows

ENGLISH = "The dog runs across the street and sees a cat on the other side of it."

CASES = [
    ("keywords:existence", {"keywords": ["dog", "CAT"]}, ENGLISH, "The dog sees nobody."),
    ("keywords:frequency", {"keyword": "dog", "frequency": 2, "relation": "at least"}, "Dog eats dogfood", "a dog"),
    ("keywords:frequency", {"keyword": ":(", "frequency": 1, "relation": "less than"}, "( :", "oh :("),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "category", "A Cat."),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 2, "let_relation": "at least"}, "eE", "e"),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 4, "let_relation": "at least"}, "####", "a ###"),
    ("language:response_language", {"language": "de"}, "Der Hund lief gestern durch den Wald nach Hause.", ENGLISH),
    ("change_case:english_capital", {}, ENGLISH.upper(), ENGLISH),
    ("change_case:english_lowercase", {}, ENGLISH.lower(), ENGLISH),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 3, "capital_relation": "at least"},
        "I DON'T KNOW",
        "I know",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        "Dr. Lee came at 3 p.m. yesterday. He left.",
        "One. Two. Three.",
    ),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "well-kept code", "two words"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\nOne\n***\nTwo\n***", "One\n***\n***\nTwo"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
        'Monday\n\n"Weekend," he said',
        "Monday\n\nNo\n\nWeekend",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] of [street]", "[name\nof street]"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye\nP. P. S one more", "Bye\nP.S. no"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n - two", "* one\n** two\n- three\n- four"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "My answer is maybe"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and ** **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\na\nPart 2\nb",
        "Part 1\na\nPart two",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 0}\n```', 'Here: {"a": 0}'),
    ("detectable_format:title", {}, "<<Dogs>>\nare fine", "<< >>"),
    ("combination:two_responses", {}, "Yes.\n******\nNo.", "Yes.\n******\nYes."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say why."}, "SAY WHY. Because.", "Why. Because."),
    ("startend:end_checker", {"end_phrase": "Any questions?"}, 'Done. any QUESTIONS?"', "Any questions? None."),
    ("startend:quotation", {}, ' "quoted" ', '"'),
    ("punctuation:no_comma", {}, "no; none", "yes, one"),
]


@pytest.mark.parametrize(("name", "arguments", "followed", "ignored"), CASES)
def test_an_instruction_by_hand(name, arguments, followed, ignored):
    assert follows(name, arguments, followed)
    assert not follows(name, arguments, ignored)
    assert not follows(name, arguments, " \n")


def test_every_instruction_has_a_case():
    assert {case[0] for case in CASES} == set(CHECKERS)
    assert len(CHECKERS) == 25


def record(*instructions):
    return json.dumps(
        {"instruction_id_list": [name for name, _ in instructions], "kwargs": [given for _, given in instructions]}
    )


def test_prompt_and_instruction_level_strict_and_loose():
    two = record(("punctuation:no_comma", {}), ("startend:quotation", {}))
    told = get("instruction_following").compute(['Sure, see:\n"Fine"', '"Fine"'], [two, two], return_items=True)
    assert (told["prompt_level_strict_acc"], told["inst_level_strict_acc"]) == (0.5, 0.5)
    assert (told["prompt_level_loose_acc"], told["inst_level_loose_acc"]) == (1.0, 1.0)
    assert told["items"][0] == {"strict": [False, False], "loose": [True, True]}


def test_padding_is_dropped_and_zero_is_not():
    padded = {"num_bullets": 0, "language": None, "keyword": None}
    told = get("instruction_following").compute(
        ["no bullets"], [record(("detectable_format:number_bullet_lists", padded))]
    )
    assert told["prompt_level_strict_acc"] == 1.0


@pytest.mark.parametrize(
    ("reference", "what"),
    [
        ("{", "references\\[0\\].*JSON"),
        ("[]", "references\\[0\\]"),
        ('{"instruction_id_list": [], "kwargs": []}', "instruction_id_list"),
        (record(("punctuation:no_coma", {})), "did you mean 'punctuation:no_comma'"),
        (record(("length_constraints:number_words", {"relation": "at least"})), "expected num_words"),
        (record(("length_constraints:number_words", {"relation": "at most", "num_words": 1})), "'at most'"),
        (record(("punctuation:no_comma", 3)), "kwargs=3"),
    ],
)
def test_records_that_cannot_be_used(reference, what):
    with pytest.raises(RequestError, match=what):
        get("instruction_following").compute(["text"], [reference])


def test_the_same_language_in_every_process_and_no_seed_of_others():
    code = """if True:
        import random
        from langdetect import DetectorFactory
        from hf_merge3h.metrics.checkers import follows
        state = random.getstate()
        short = ["Hallo", "no", "ok ok", "a la", "die", "piano forte", "si no", "on the"]
        languages = ["de", "en", "es", "it", "no", "nl", "pt", "tl"]
        told = [follows("language:response_language", {"language": code}, text) for text in short for code in languages]
        print(told, DetectorFactory.seed)"""
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(3)}
    assert len(runs) == 1
    assert runs.pop().strip().endswith("] None")
