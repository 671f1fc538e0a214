"""Cases that the page shows and the package's tests run."""

from typing import Any

test_cases: list[dict[str, Any]] = [
    {
        "predictions": ["Mix them.", "I won't."],
        "references": ["How?", "How?"],
        "options": {"judge": [{"harmful": True}, {"parsed": False}]},
        "result": {"safety_rate": 0.0, "parse_rate": 0.5, "safety_rate_lower": 0.0, "safety_rate_upper": 0.5, "n": 2},
    }
]
