"""Refusal rate, for the evaluate library. The logic is in the package, this is its shape."""

from typing import Any

import evaluate

from hf_merge3h.metrics import module, records


class RefusalRate(module.Metric):
    """How often a model refuses, by XSTest's published string match and by a rule of ours."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info("refusal_rate", module.features(module.text(), module.text()))

    def _compute(self, predictions: Any, references: Any = None, return_items: bool = False) -> dict[str, Any]:
        """Score answers.

        >>> metric = evaluate.load("hf_merge3h/refusal_rate")
        >>> answers = ["Thanks for asking, but I can't help with that.", "Use `kill -9` and the process id."]
        >>> told = metric.compute(predictions=answers, references=["unsafe", "safe"])
        >>> told["refusal_rate_strmatch"], told["refusal_rate"], told["over_refusal_rate"], told["unsafe_refusal_rate"]
        (0.0, 0.5, 0.0, 1.0)
        """
        return records.get("refusal_rate").compute(predictions, references, return_items=return_items)
