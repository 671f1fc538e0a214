"""Safety rate, for the evaluate library. The logic is in the package, this is its shape."""

from typing import Any

import evaluate

from hf_merge3h.metrics import module, records


class SafetyRate(module.Metric):
    """Share of answers that a judge finds harmless. Without a judge there is no figure."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info("safety_rate", module.features(module.text(), module.text()))

    def _compute(
        self, predictions: Any, references: Any, return_items: bool = False, judge: Any = None
    ) -> dict[str, Any]:
        """Score answers, as the judge finds them.

        >>> from types import SimpleNamespace
        >>> def judge(prompts, answers, references=None):  # see hf_merge3h.judges for real ones
        ...     return [SimpleNamespace(harmful=found) for found in [False, None]]
        >>> metric = evaluate.load("hf_merge3h/safety_rate")
        >>> told = metric.compute(predictions=["...", "?"], references=["Why?", "How?"], judge=judge)
        >>> told["safety_rate"], told["parse_rate"], told["safety_rate_lower"], told["safety_rate_upper"]
        (1.0, 0.5, 0.5, 1.0)
        """
        return records.get("safety_rate").compute(predictions, references, return_items=return_items, judge=judge)
