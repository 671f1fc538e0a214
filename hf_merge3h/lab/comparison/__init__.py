"""The paper's comparison as a graph of cached steps: train experts and mixtures, merge, measure, tune, report.

What arXiv:2502.06876 calls its training paradigms is not in its abstract; `static` (each expert from the base alone)
and `continual` (one H after another, each from the last) are our reading.
"""
