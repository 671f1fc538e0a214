"""Scores for helpfulness, honesty and harmlessness: plain functions, and the same as metrics of the evaluate library.

    hf_merge3h.metrics.get("refusal_rate").compute(answers, references=labels, return_items=True)
    evaluate.load("hf_merge3h/refusal_rate").compute(predictions=answers, references=labels, return_items=True)

Each metric is one record (`records.py`) over two functions: one scores items, the other sums up items that were scored,
so a report can be made again from the items alone. The folders beside this file have the evaluate library's layout and
hold no logic.
"""

from __future__ import annotations

from .records import Metric, get, list_metrics, metric_path

__all__ = ["Metric", "get", "list_metrics", "metric_path"]
