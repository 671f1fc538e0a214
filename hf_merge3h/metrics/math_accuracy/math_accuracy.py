"""Accuracy in mathematics, for the evaluate library. The logic is in the package, this is its shape."""

from typing import Any

import evaluate

from hf_merge3h.metrics import module, records


class MathAccuracy(module.Metric):
    """Is the final answer right? By math-verify, and by GSM8K's strict and flexible text rules."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info("math_accuracy", module.features(module.text(), module.text()))

    def _compute(
        self,
        predictions: Any,
        references: Any,
        return_items: bool = False,
        answer_format: str = "gsm8k",
        timeout: float = 10.0,
    ) -> dict[str, Any]:
        r"""Score answers.

        >>> metric = evaluate.load("hf_merge3h/math_accuracy")
        >>> answers = ["2 and 2 make four.\n#### 4", "It must be 5."]
        >>> told = metric.compute(predictions=answers, references=["2 + 2 = 4\n#### 4"] * 2)
        >>> told["accuracy"], told["accuracy_strict"], told["parse_rate"], told["n"]
        (0.5, 0.5, 1.0, 2)
        """
        record = records.get("math_accuracy")
        return record.compute(
            predictions, references, return_items=return_items, answer_format=answer_format, timeout=timeout
        )
