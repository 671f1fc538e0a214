"""Cases that the page shows and the package's tests run."""

from typing import Any

test_cases: list[dict[str, Any]] = [
    {
        "predictions": [[-1.0, -1.0], [-3.0, -1000.0]],
        "references": [[1, 0], [0, 1]],
        "result": {"mc1": 0.5, "mc2": 0.25, "binary": 0.5, "n": 2},
    }
]
