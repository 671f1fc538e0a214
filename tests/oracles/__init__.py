"""Slow and obvious: each method once more, from its paper, entry by entry in Python floats.

`ORACLES[name](vectors [task, *shape] float64, weights, *, base, keys, **parameters)` gives [*shape]. The spectral
methods are in `oracles_spectral.py`.
"""

# isort: off
from .entries import ORACLES, like, oracle, rows
from . import linear, dropping, sphere, consensus  # in this order the tests go through them

# isort: on
__all__ = ["ORACLES", "consensus", "dropping", "like", "linear", "oracle", "rows", "sphere"]
