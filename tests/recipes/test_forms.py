"""The forms that recipes in mergekit's documentation and on the Hub have."""

from __future__ import annotations

import pytest

from hf_merge3h.recipes.read import read_recipe

SHAPES = {
    f"model.layers.{n}.{name}": (4, 4) for n in range(3) for name in ("self_attn.q_proj.weight", "mlp.up_proj.weight")
}
SHAPES |= {"model.embed_tokens.weight": (6, 4), "model.norm.weight": (4,), "lm_head.weight": (6, 4)}

FORMS = {
    "gradients": """
models:
  - model: o/first
    parameters: {density: [1, 0.7, 0.1], weight: 1.0}
  - model: o/second
    parameters: {density: 0.5, weight: [0, 0.3, 0.7, 1]}
  - model: o/third
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: o/base
parameters: {normalize: true, int8_mask: true}
dtype: float16
""",
    "base first, without parameters": """
models:
  - model: o/base  # No parameters necessary for base model
  - model: o/first
    parameters: {weight: 0.4, density: 0.53}
  - model: o/second
    parameters: {weight: 0.4, density: 0.53}
merge_method: dare_ties
base_model: o/base
parameters: {int8_mask: true}
dtype: bfloat16
""",
    "slerp by slices": """
slices:
  - sources:
      - {model: o/first, layer_range: [0, 3]}
      - {model: o/base, layer_range: [0, 3]}
merge_method: slerp
base_model: o/base
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - value: 0.5 # the rest
dtype: float16
""",
    "a stack": """
slices:
  - sources: [{model: o/first, layer_range: [0, 2]}]
  - sources: [{model: o/second, layer_range: [0, 3]}]
merge_method: passthrough
dtype: float16
""",
    "tokens": """
merge_method: linear
models:
  - {model: o/first, parameters: {weight: 1.0}}
  - {model: o/second+o/lora, parameters: {weight: 0.3}}
tokenizer:
  source: union
  tokens:
    <|im_start|>: {source: o/first}
    <|eot|>: {source: {kind: model_token, model: o/first, token: <|eot|>}}
chat_template: auto
""",
}


@pytest.mark.parametrize("form", FORMS)
def test_recipes_of_mergekits_forms_are_read_without_a_word(form):
    recipe = read_recipe(FORMS[form])
    assert recipe.warnings == ()
    assert recipe.jobs([SHAPES] * len(recipe.models), [3] * len(recipe.models))
