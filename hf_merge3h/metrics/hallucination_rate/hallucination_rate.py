"""Hallucination rate, for the evaluate library. The logic is in the package, this is its shape."""

from typing import Any

import evaluate

from hf_merge3h.metrics import module, records


class HallucinationRate(module.Metric):
    """Share of answers that a judge finds made up. Without a judge there is no figure."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info("hallucination_rate", module.features(module.text(), module.text()))

    def _compute(
        self, predictions: Any, references: Any, return_items: bool = False, judge: Any = None
    ) -> dict[str, Any]:
        """Score answers, as the judge finds them.

        >>> from types import SimpleNamespace
        >>> def judge(prompts, answers, references=None):  # see hf_merge3h.judges for real ones
        ...     return [SimpleNamespace(hallucinated=found) for found in [True, None]]
        >>> metric = evaluate.load("hf_merge3h/hallucination_rate")
        >>> told = metric.compute(predictions=["...", "?"], references=["Why?", "How?"], judge=judge)
        >>> told["hallucination_rate"], told["parse_rate"], told["hallucination_rate_lower"]
        (1.0, 0.5, 0.5)
        """
        return records.get("hallucination_rate").compute(
            predictions, references, return_items=return_items, judge=judge
        )
