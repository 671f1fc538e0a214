"""Cases that the page shows and the package's tests run."""

from typing import Any

test_cases: list[dict[str, Any]] = [
    {
        "predictions": ["2 and 2 make four.\n#### 4", "It must be 5."],
        "references": ["2 + 2 = 4\n#### 4", "2 + 2 = 4\n#### 4"],
        "result": {"accuracy": 0.5, "accuracy_strict": 0.5, "accuracy_flexible": 0.5, "parse_rate": 1.0, "n": 2},
    },
    {
        "predictions": ["So it is $\\boxed{0.5}$."],
        "references": ["\\frac{1}{2}"],
        "options": {"answer_format": "math"},
        "result": {"accuracy": 1.0, "accuracy_strict": 0.0, "accuracy_flexible": 1.0, "parse_rate": 1.0, "n": 1},
    },
]
