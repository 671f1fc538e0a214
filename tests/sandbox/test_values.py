"""Values that leave the sandbox are compared as Python compares them, and what is made up is not believed."""

import collections
import decimal
import enum
import fractions
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_merge3h.sandbox.inside.harness import encode
from hf_merge3h.sandbox.values import matches

atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
atoms |= st.complex_numbers(allow_nan=False) | st.sampled_from([0, 1, True, 0.0, -0.0, 1.0, "", b"", "1"])
keys = atoms | st.tuples(atoms) | st.frozensets(atoms, max_size=3)
values = st.recursive(
    keys,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(keys, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


def sent(value):
    return json.loads(encode(value))


@given(values, values)
def test_two_values_match_where_they_are_equal(one, other):
    assert matches(sent(one), other) == (one == other)


@given(values)
def test_a_value_matches_itself(value):
    assert matches(sent(value), value)


class Colour(enum.IntEnum):
    RED = 3


class Yes:
    def __eq__(self, other):
        return True

    __hash__ = None


class YesNumber(int):
    __eq__ = Yes.__eq__
    __hash__ = int.__hash__


@pytest.mark.parametrize(
    ("value", "literal", "equal"),
    [
        (collections.Counter("aab"), {"a": 2, "b": 1}, True),
        (collections.OrderedDict(a=1), {"a": 1}, True),
        (collections.defaultdict(list, {1: [2]}), {1: [2]}, True),
        (collections.namedtuple("P", "x y")(1, 2), (1, 2), True),
        ({"a": 1}.keys(), {"a"}, True),
        ({"a": 1}.items(), {("a", 1)}, True),
        (np.int64(3), 3, True),
        (np.float64(0.5), 0.5, True),
        (np.float32(0.1), 0.1, False),
        (np.bool_(True), True, True),
        (np.str_("a"), "a", True),
        (np.array([1, 2]), [1, 2], False),
        (fractions.Fraction(1, 2), 0.5, True),
        (decimal.Decimal("0.1"), 0.1, False),
        (Colour.RED, 3, True),
        (bytearray(b"a"), b"a", True),
        (frozenset({1}), {1}, True),
        (float("nan"), math.nan, False),
        (float("inf"), math.inf, True),
        (10**4000, 10**4000, True),
        (range(3), [0, 1, 2], False),
        ([1, 2], (1, 2), False),
        (Yes(), 3, False),
        ([Yes()], [3], False),
        (YesNumber(4), 3, False),
        ("\ud800", "\ud800", True),
    ],
)
def test_values_of_other_types(value, literal, equal):
    assert matches(sent(value), literal) is equal


@pytest.mark.parametrize(
    "made_up",
    [[], {}, 3, "x", ["i"], ["i", "x"], ["i", 3], ["s", "zz"], ["s", "ff"], ["l", 1], ["t"], ["u", ["l"]], ["d", 1],
     ["d", [["l"], 1]], ["q", "0x1", "0x0"], ["q", "0x" + "1" * 20000, "0x1"], ["f", "x"], ["zz"], [None], [[]]],
)  # fmt: skip
@pytest.mark.parametrize("literal", [0, 1.5, "x", b"x", [1], (1,), {1}, {1: 1}, None, True])
def test_what_no_harness_sends_matches_nothing(made_up, literal):
    assert matches(made_up, literal) is False


def test_depth_is_no_crash():
    deep = ["l"]
    for _ in range(20_000):
        deep = ["l", deep]
    assert matches(deep, [[[]]]) is False
