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
from .test_forms import SHAPES

#: How many mutated recipes to try (the issue asks for 2,000; the suite takes fewer).
EXAMPLES = int(os.environ.get("HF_MERGE3H_FUZZ_EXAMPLES", "300"))


class Names(dict):
    def __missing__(self, key):
        return key


#: What mergekit's cases have none of.
OURS = (
    """
merge_method: r_tsvm
base_model: base
adapters: {helpfulness: x, honesty: {adapter: [y, z], parameters: {weight: 1}}}
seed: 3
out: adapter
parameters: {kappa: 2, outliers: boost}
""",
    """
merge_method: dare_ties
base_model: base
roles: [helpfulness, honesty]
models: [{model: a, adapters: x}, {model: {model: {path: b, revision: main}, lora: {path: l}}}]
parameters: {rescale: true, election: count}
""",
    """
merge_method: linear
models: [a, b]
chat_template: chatml
parameters: {weight: 1}
tokenizer:
  source: union
  pad_to_multiple_of: 8
  tokens:
    p: {source: a, force: true}
    q: {source: {kind: zero}}
    r: {source: {kind: model_token, model: a, token: s}}
""",
    """
merge_method: consensus_ties
base_model: base
models: [a, b]
roles: {helpfulness: a}
out_dtype: float16
parameters: {density: [0.2, 0.4], min_experts: 2}
""",
)

TEXTS = [*(text.format_map(Names()) for text in sorted(CASES.values())), *OURS]

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
    data = yaml.safe_load(draw(st.sampled_from(TEXTS)))
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
@given(st.sampled_from(TEXTS), st.data())
def test_mutated_text_gives_jobs_or_a_request_error(text, data):
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 4)))
        text = text[:start] + data.draw(st.text(alphabet="{}[]:,-&*!#|>'\"\n\t %@<?aé0.~\x00", max_size=4)) + text[end:]
    carry(text + "\n")
