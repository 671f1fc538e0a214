"""Runs math-verify in a process of its own, so that a question that never ends can be stopped from any thread.

math-verify stops itself by `signal.alarm`, which works in the main thread only, and sympy given `9^(9^(9^9))` takes all
memory first. The process reads requests, one JSON line each, and answers each with one; it ends with its input.
Run as `python -m hf_merge3h.metrics.worker`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from typing import Any

_MEMORY = 4 << 30  # bytes of address space
_LONGEST = 20_000  # characters of an answer that are looked at, from its end


def compare(gold: str, answer: str) -> tuple[bool, bool]:
    """Whether an answer could be parsed, and whether it is mathematically the gold one."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    configs = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    expected = parse(gold, extraction_config=configs, parsing_timeout=None)
    found = parse(answer[-_LONGEST:], extraction_config=configs, parsing_timeout=None)
    if not expected or not found:
        return bool(found), False
    return True, bool(verify(expected, found, timeout_seconds=None))


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on this system: the time limit remains
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _answer(request: Any) -> dict[str, Any]:
    try:
        parsed, correct = compare(*request)
    except (Exception, MemoryError, RecursionError) as error:  # sympy's, whatever it is: this answer is not parsed
        return {"parsed": False, "correct": False, "error": type(error).__name__}
    return {"parsed": parsed, "correct": correct}


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    logging.disable(logging.CRITICAL)
    sys.set_int_max_str_digits(10_000)
    import math_verify  # noqa: F401 - before the limit: loading it maps more than it uses

    _limit_memory()
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
