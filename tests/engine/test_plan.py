"""Which tensors are treated together, told from headers alone."""

from __future__ import annotations

import pickle

import pytest
import torch

from hf_merge3h.engine.plan import is_embedding, is_stack_of_matrices, make_plan
from hf_merge3h.engine.request import make_request
from hf_merge3h.models.types import TensorSpec

F32 = torch.float32


class Headers:
    """An expert of which nothing but headers exists: a plan must not ask for more."""

    label = "headers"

    def __init__(self, **specs: TensorSpec) -> None:
        self._specs = {name.replace("__", "."): spec for name, spec in specs.items()}

    def specs(self):
        return self._specs


def plan(
    method: str, base: dict[str, TensorSpec], *experts, device: str = "cpu", weights_at_hand: bool = True, **options
):
    request = make_request(
        {f"r{i}": i for i in range(len(experts))},
        method=method,
        weights=None,
        parameters=options,
        seed=0,
        device=device,
    )
    return make_plan(request, base, experts, weights_at_hand=weights_at_hand)


FACTORS = TensorSpec((8, 6), F32, rank=2)
BASE = {
    "a.weight": TensorSpec((8, 6), F32),
    "b.weight": TensorSpec((8, 6), F32),
    "c.bias": TensorSpec((8,), F32),
    "lm_head.weight": TensorSpec((8, 6), F32),
    "moe.experts.up": TensorSpec((3, 8, 6), F32),
}


def test_factors_of_one_shape_are_stacked() -> None:
    expert = Headers(a__weight=FACTORS, b__weight=FACTORS)
    for method, low_rank in (("tsv_merge", True), ("task_arithmetic", True), ("ties", False)):
        groups = plan(method, BASE, expert, expert).groups
        assert [group.low_rank for group in groups] == [low_rank] * len(groups)
        assert sum(len(group.names) for group in groups) == 2
        assert len(groups) == (1 if low_rank else 2)


def test_a_dense_expert_makes_the_group_dense() -> None:
    dense = Headers(a__weight=TensorSpec((8, 6), F32))
    (group,) = plan("tsv_merge", BASE, Headers(a__weight=FACTORS), dense).groups
    assert group.ranks == (2, None)
    assert not group.low_rank


def test_what_no_expert_changes_is_left_out() -> None:
    (group,) = plan("linear", BASE, Headers(a__weight=FACTORS), Headers()).groups
    assert group.names == ("a.weight",)
    assert group.ranks == (2, 0)


def test_spectral_methods_treat_matrices_and_average_the_rest() -> None:
    whole = Headers(**{name.replace(".", "__"): spec for name, spec in BASE.items()})
    by_name = {group.names[0]: group for group in plan("tsv_merge", BASE, whole, whole).groups}
    assert by_name["a.weight"].spectral
    assert not by_name["c.bias"].spectral
    assert not by_name["lm_head.weight"].spectral
    assert by_name["moe.experts.up"].spectral
    assert by_name["moe.experts.up"].entry_names() == ("moe.experts.up[0]", "moe.experts.up[1]", "moe.experts.up[2]")
    by_name = {g.names[0]: g for g in plan("tsv_merge", BASE, whole, whole, spectral_embeddings=True).groups}
    assert by_name["lm_head.weight"].spectral


def test_methods_in_weight_space_see_weights_where_there_are_some() -> None:
    expert = Headers(a__weight=FACTORS)
    assert not plan("karcher", BASE, expert, expert).groups[0].low_rank
    assert plan("linear", BASE, expert, expert, weights_at_hand=False).groups[0].low_rank


def test_a_plan_is_plain_data() -> None:
    made = plan("ties", BASE, Headers(a__weight=FACTORS))
    assert pickle.loads(pickle.dumps(made)) == made
    assert made.numbers == 48


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lm_head.weight", True),
        ("model.embed_tokens.weight", True),
        ("transformer.wte.weight", True),
        ("shared.weight", True),
        ("vit.embeddings.position_embeddings", True),
        ("bert.embeddings.word_embeddings.weight", True),
        ("cls.predictions.decoder.weight", True),
        ("proj_out.weight", True),
        ("output.weight", True),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", True),
        ("layers.0.attention.output.weight", False),
        ("text_embedder.layers.0.mlp.fc1.weight", False),
        ("time_embed.0.weight", False),
        ("albert.encoder.embedding_hidden_mapping_in.weight", False),
        ("model.layers.0.mlp.shared_expert.up_proj.weight", False),
        ("model.layers.0.self_attn.q_proj.weight", False),
    ],
)
def test_embeddings_are_told_by_name(name: str, expected: bool) -> None:
    assert is_embedding(name) is expected


def test_stacks_are_told_from_kernels() -> None:
    assert is_stack_of_matrices("layers.0.moe.input_linear.weight", (8, 64, 32))
    assert not is_stack_of_matrices("encoder.conv.weight", (64, 64, 64))
    assert not is_stack_of_matrices("feature.weight", (64, 64, 3))
    assert not is_stack_of_matrices("weight", (64, 64))
