"""Cases that the page shows and the package's tests run."""

from typing import Any

test_cases: list[dict[str, Any]] = [
    {
        "predictions": {"gsm8k": 0.5, "math": 0.25, "truthfulqa": 0.5, "xstest_safe": 0.25},
        "references": None,
        "result": {
            "dimensions": {"math": 0.375, "truthfulness": 0.5, "over_refusal": 0.75},
            "helpfulness": 0.375,
            "honesty": 0.5,
            "harmlessness": 0.75,
            "min_h": 0.375,
            "coverage": {
                "helpfulness": "2 of 5 datasets",
                "honesty": "1 of 2 datasets",
                "harmlessness": "1 of 5 datasets",
            },
            "missing": {
                "helpfulness": ["humaneval", "mbpp", "ifeval"],
                "honesty": ["halueval_wild"],
                "harmlessness": ["salad_bench", "orbench_toxic", "xstest_unsafe", "orbench_hard"],
            },
            "n": 4,
        },
    }
]
