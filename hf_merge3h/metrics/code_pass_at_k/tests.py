"""Cases that the page shows and the package's tests run."""

from typing import Any

test_cases: list[dict[str, Any]] = [
    {
        "predictions": [["def half(x): return x / 2", "def half(x): return x // 2"]],
        "references": ["assert half(3) == 1.5"],
        "options": {"k": [1, 2]},
        "result": {
            "pass@1": 0.5,
            "pass@2": 1.0,
            "passed": 1,
            "failed": 1,
            "timeout": 0,
            "out_of_memory": 0,
            "sandbox_error": 0,
            "n": 1,
        },
    }
]
