"""Measuring in bfloat16: weights are rounded once, and every product is the one that autocast would form."""

from __future__ import annotations

import copy

import torch

from hf_merge3h.lab.comparison.measuring import round_products
from tests.evaluation import tiny


def test_rounding_once_gives_the_bits_of_rounding_at_each_call():
    model = tiny.model()
    rounded = copy.deepcopy(model)
    round_products(rounded)
    ids = torch.randint(3, 260, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rounded(ids).logits, model(ids).logits)
    assert rounded.model.embed_tokens.weight.dtype is torch.float32
    assert {m.weight.dtype for m in rounded.modules() if isinstance(m, torch.nn.Linear)} == {torch.bfloat16}


def test_a_head_that_is_the_embedding_leaves_it_in_float32():
    model = tiny.model()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    before = model.model.embed_tokens.weight.detach().clone()
    round_products(model)
    assert model.lm_head.weight.dtype is torch.bfloat16
    assert torch.equal(model.model.embed_tokens.weight, before)
