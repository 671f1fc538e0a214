"""Measuring in bfloat16: weights are rounded once, and every product is the one that autocast would form."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from hf_merge3h.lab.comparison.precision import round_products
from hf_merge3h.lab.comparison.reading import read_lab
from hf_merge3h.lab.comparison.records import Records
from hf_merge3h.lab.comparison.steps import graph_of
from tests.evaluation import tiny

from . import small


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


def test_mixtures_are_learnt_in_the_precision_of_training(tmp_path):
    found = {}
    for precision in ("float32", "bfloat16"):
        training = {"full": {"steps": 2, "batch_size": 1, "precision": precision}}
        mixtures = {"adaptive": {"steps": 4, "batch_size": 2, "learning_rate": 0.03}}
        graph = graph_of(read_lab(small.lab(tmp_path, training=training, mixtures=mixtures)), tmp_path)
        small.do(graph, ["mix/full/adaptive"])
        told = json.loads((graph.folder("mix/full/adaptive") / "mixture.json").read_text())
        found[precision] = (graph.key("mix/full/adaptive"), told["proportions"], told["signals"])
    (key, shares, signals), (other_key, other_shares, other_signals) = found.values()
    assert key != other_key
    assert other_shares == pytest.approx(shares, abs=0.01)
    assert other_signals != signals
    for one, other in zip(signals, other_signals, strict=True):
        assert other == pytest.approx(one, rel=0.2, abs=0.03)
    assert min(signals[0].values()) > 0.03  # the reference has learnt, and the proxy not yet


def test_precision_is_that_of_products_alone_and_part_of_what_a_result_depends_on(tmp_path):
    found = {}
    for precision in ("float32", "bfloat16"):
        training = {"full": {"steps": 2, "batch_size": 2, "learning_rate": 1e-3, "precision": precision}}
        evaluation = {"test": "suite/tiny.yaml", "limit": 4, "precision": precision}
        lab = read_lab(small.lab(tmp_path, training=training, evaluation=evaluation))
        graph = graph_of(lab, tmp_path / precision)
        names = ["questions", "measure/test/base", "train/static/full/honesty"]
        small.do(graph, names)
        weights = load_file(graph.folder(names[2]) / "model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
        found[precision] = (
            [graph.key(name) for name in names[1:]],
            list(Records.of(lab, graph).values["measure/test/base"]["gold"].values()),
            torch.cat([tensor.flatten() for _, tensor in sorted(weights.items())]),
        )
    (keys, values, moved), (other_keys, other_values, other_moved) = found.values()
    assert not set(keys) & set(other_keys)
    assert values != other_values
    assert other_values == pytest.approx(values, abs=0.1)
    assert not torch.equal(moved, other_moved)
    assert float((moved - other_moved).norm() / moved.norm()) < 0.01
