"""Instruction following, for the evaluate library. The logic is in the package, this is its shape."""

from typing import Any

import evaluate

from hf_merge3h.metrics import module, records


class InstructionFollowing(module.Metric):
    """Does an answer follow instructions that can be verified? IFEval's 25 kinds, strict and loose."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info("instruction_following", module.features(module.text(), module.text()))

    def _compute(self, predictions: Any, references: Any, return_items: bool = False) -> dict[str, Any]:
        """Score answers.

        >>> metric = evaluate.load("hf_merge3h/instruction_following")
        >>> ids, kwargs = '["punctuation:no_comma", "startend:quotation"]', "[{}, {}]"
        >>> record = '{"instruction_id_list": %s, "kwargs": %s}' % (ids, kwargs)
        >>> told = metric.compute(predictions=['Sure, here:\\n"No commas"'], references=[record])
        >>> told["inst_level_strict_acc"], told["inst_level_loose_acc"], told["prompt_level_loose_acc"]
        (0.0, 1.0, 1.0)
        """
        return records.get("instruction_following").compute(predictions, references, return_items=return_items)
