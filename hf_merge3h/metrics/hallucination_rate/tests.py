"""Cases that the page shows and the package's tests run."""

from typing import Any

test_cases: list[dict[str, Any]] = [
    {
        "predictions": ["Paris.", "Rome."],
        "references": [
            {"prompt": "Capital of France?", "reference": "Paris"},
            {"prompt": "Capital of France?", "reference": "Paris"},
        ],
        "options": {"judge": [{"hallucinated": False}, {"hallucinated": True}]},
        "result": {
            "hallucination_rate": 0.5,
            "parse_rate": 1.0,
            "hallucination_rate_lower": 0.5,
            "hallucination_rate_upper": 0.5,
            "n": 2,
        },
    }
]
