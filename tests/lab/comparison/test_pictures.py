"""One model that lies far out does not squeeze the others of a picture."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from hf_merge3h.lab.comparison import pictures


@pytest.mark.parametrize(("value", "marker", "edge"), [(-51.86, "<", -1.0), (7.0, ">", 2.5)])
def test_what_lies_far_out_is_an_arrow_with_its_number(value, marker, edge):
    axes = Figure().subplots()
    pictures._dot(axes, 3, {"value": value, "low": value - 1, "high": value + 1}, "#0072B2")
    (dot,) = axes.get_lines()  # an interval would lie under the number
    assert (dot.get_marker(), dot.get_xdata()[0]) == (marker, edge)
    assert [text.get_text() for text in axes.texts] == [f"{value:.3g}"]


def test_what_lies_within_is_a_dot_without_words():
    axes = Figure().subplots()
    pictures._dot(axes, 0, {"value": 0.5, "low": -3.0, "high": 0.75}, "#0072B2")
    interval, dot = axes.get_lines()
    assert (dot.get_marker(), dot.get_xdata()[0]) == ("o", 0.5)
    assert list(interval.get_xdata()) == [-1.0, 0.75]
    assert not axes.texts
