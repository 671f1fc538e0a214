"""Recipes that chance has changed give jobs or one clear error, never anything else."""

from __future__ import annotations

import copy
import os

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_merge3h.errors import RequestError
from hf_merge3h.recipes.read import read_recipe

from .cases import CASES
from .test_read import SHAPES

#: How many mutated recipes to try (the issue asks for 2,000; the suite takes fewer).
EXAMPLES = int(os.environ.get("HF_MERGE3H_FUZZ_EXAMPLES", "300"))

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 5), st.floats(), st.text(max_size=6),
    st.sampled_from(["ties", "linear", "slerp", "base", "x+y", "1e-3", [], {}, [0, 1], [0.1, 0.9], [[1]], {"value": 1},
                     [{"filter": "mlp", "value": 2}], {"model": "x"}, [{"model": "x"}], 10**40, "a" * 500]),
    st.recursive(st.integers(0, 3), lambda deeper: st.lists(deeper, max_size=2), max_leaves=4),
)  # fmt: skip
KEYS = st.sampled_from(
    [
        *(
            "merge_method",
            "models",
            "slices",
            "modules",
            "base_model",
            "parameters",
            "weight",
            "density",
            "t",
            "normalize",
        ),
        *(
            "model",
            "layer_range",
            "sources",
            "tokens",
            "adapters",
            "roles",
            "seed",
            "out",
            "tokenizer",
            "dtype",
            "filter",
        ),
        *("value", "lambda", "scale", "rescale", "epsilon", "tokenizer_source", "source"),
    ]
)


@st.composite
def mutated(draw):
    """A good recipe in which a few values, keys or elements are others."""
    data = yaml.safe_load(draw(st.sampled_from(sorted(CASES.values()))).format_map(Names()))
    for _ in range(draw(st.integers(1, 4))):
        places = list(_containers(data))
        container = draw(st.sampled_from(places))
        value = copy.deepcopy(draw(VALUES))
        if isinstance(container, dict):
            keys = sorted(container)
            action = draw(st.sampled_from(["set", "add", "drop"]))
            key = draw(st.sampled_from(keys)) if keys and action != "add" else draw(KEYS)
            if action == "drop":
                container.pop(key, None)
            else:
                container[key] = value
        elif container and draw(st.booleans()):
            container[draw(st.integers(0, len(container) - 1))] = value
        else:
            container.append(value)
    return data


class Names(dict):
    def __missing__(self, key):
        return key


def _containers(node):
    if isinstance(node, (dict, list)):
        yield node
        for each in node.values() if isinstance(node, dict) else node:
            yield from _containers(each)


def carry(given):
    try:
        recipe = read_recipe(given)
        recipe.jobs([SHAPES] * len(recipe.models), [3] * len(recipe.models))
        recipe.layers([3] * len(recipe.models))
    except RequestError:
        pass  # anything else is a failure


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(mutated(), st.booleans())
def test_mutated_recipes_give_jobs_or_a_request_error(data, as_text):
    carry(yaml.safe_dump(data, allow_unicode=True) if as_text else data)


@settings(max_examples=max(50, EXAMPLES // 4), suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(CASES.values())), st.data())
def test_mutated_text_gives_jobs_or_a_request_error(text, data):
    text = text.format_map(Names())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 4)))
        text = text[:start] + data.draw(st.text(alphabet="{}[]:,-&*!#|>'\"\n\t %@<?aé0.~\x00", max_size=4)) + text[end:]
    carry(text + "\n")
