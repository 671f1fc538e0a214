"""Cases that the page shows and the package's tests run."""

from typing import Any

test_cases: list[dict[str, Any]] = [
    {
        "predictions": ['Sure, here:\n"No commas"'],
        "references": ['{"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]}'],
        "result": {
            "prompt_level_strict_acc": 0.0,
            "inst_level_strict_acc": 0.0,
            "prompt_level_loose_acc": 1.0,
            "inst_level_loose_acc": 1.0,
            "n": 1,
        },
    }
]
