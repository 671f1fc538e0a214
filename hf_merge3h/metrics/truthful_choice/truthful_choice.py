"""Truthful choice, for the evaluate library. The logic is in the package, this is its shape."""

from typing import Any

import evaluate

from hf_merge3h.metrics import module, records


class TruthfulChoice(module.Metric):
    """TruthfulQA's multiple choice: does the model find true answers likelier than false ones?"""

    def _info(self) -> evaluate.MetricInfo:
        return module.info("truthful_choice", module.features(module.listed("float64"), module.listed("int64")))

    def _compute(self, predictions: Any, references: Any, return_items: bool = False) -> dict[str, Any]:
        """Score log-likelihoods.

        >>> metric = evaluate.load("hf_merge3h/truthful_choice")
        >>> told = metric.compute(predictions=[[-5000.0, -5001.0], [-3.0, -1.0]], references=[[1, 0], [1, 0]])
        >>> told["mc1"], round(told["mc2"], 3), told["binary"]
        (0.5, 0.425, 0.5)
        """
        return records.get("truthful_choice").compute(predictions, references, return_items=return_items)
