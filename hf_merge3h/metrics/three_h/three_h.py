"""Helpfulness, honesty, harmlessness, for the evaluate library. The logic is in the package, this is its shape."""

from typing import Any

import evaluate

from hf_merge3h.metrics import module, records


class ThreeH(module.Metric):
    """What values on single data sets add up to: macro means over data sets and dimensions, nothing imputed."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info("three_h", module.features(module.number()))

    def _compute(self, predictions: Any, references: Any = None, return_items: bool = False) -> dict[str, Any]:
        """Combine values.

        >>> metric = evaluate.load("hf_merge3h/three_h")
        >>> told = metric.compute(predictions={"gsm8k": 0.4, "math": 0.2, "truthfulqa": 0.5})
        >>> round(told["helpfulness"], 3), told["honesty"], told["coverage"]["honesty"], "min_h" in told
        (0.3, 0.5, '1 of 2 datasets', False)
        """
        return records.get("three_h").compute(predictions, references, return_items=return_items)
