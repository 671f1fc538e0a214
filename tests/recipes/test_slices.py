"""Which tensors of which models make the output."""

from __future__ import annotations

import pickle

import pytest

from hf_merge3h.errors import RequestError
from hf_merge3h.recipes.layers import comes_last, find_layers, part_of, tied_to
from hf_merge3h.recipes.read import read_recipe

LLAMA = ("self_attn.q_proj", "mlp.up_proj")


def llama(layers, vocabulary=10, head=True, prefix="model.", width=4):
    found = {f"{prefix}embed_tokens.weight": (vocabulary, width), f"{prefix}norm.weight": (width,)}
    found = {f"{prefix}layers.{n}.{name}.weight": (width, width) for n in range(layers) for name in LLAMA} | found
    return found | ({"lm_head.weight": (vocabulary, width)} if head else {})


def jobs_of(text, *models, counts=None):
    recipe = read_recipe(text)
    found = recipe.jobs(models, counts or [4] * len(models))
    return recipe, {job.name: job for job in found}


STACK = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: b, layer_range: [1, 4]}]
"""


def test_a_stack_is_numbered_anew():
    recipe, jobs = jobs_of(STACK, llama(4), llama(4))
    assert recipe.layers([4, 4]) == 6
    assert [name for name in jobs if name.endswith("q_proj.weight")] == [
        f"model.layers.{n}.self_attn.q_proj.weight" for n in range(6)
    ]
    assert jobs["model.layers.3.mlp.up_proj.weight"].inputs == ((1, "model.layers.1.mlp.up_proj.weight"),)
    assert jobs["model.embed_tokens.weight"].inputs == ((0, "model.embed_tokens.weight"),)
    assert jobs["model.norm.weight"].inputs == ((1, "model.norm.weight"),)
    assert jobs["lm_head.weight"].inputs == ((1, "lm_head.weight"),)


def test_the_head_of_a_stack_that_ends_with_a_tied_model_is_its_embedding():
    _, jobs = jobs_of(STACK, llama(4), llama(4, head=False))
    assert jobs["lm_head.weight"].inputs == ((1, "model.embed_tokens.weight"),)
    _, jobs = jobs_of(STACK, llama(4, head=False), llama(4, head=False))
    assert "lm_head.weight" not in jobs


def test_vocabularies_in_the_middle_of_a_stack_do_not_count():
    three = STACK + "  - sources: [{model: a, layer_range: [3, 4]}]\n"
    _, jobs = jobs_of(three, llama(4), llama(4, 12))
    assert jobs["lm_head.weight"].inputs == ((0, "lm_head.weight"),)


def test_a_recipe_and_its_jobs_can_be_sent_to_another_process():
    recipe = pickle.loads(pickle.dumps(read_recipe(STACK)))
    assert len(recipe.jobs([llama(4), llama(4)], [4, 4])) == 15


@pytest.mark.parametrize(
    ("text", "models", "message"),
    [
        (
            STACK,
            (llama(4), llama(3)),
            r"recipe:5: slices\[1\]\.sources\[0\]\.layer_range=\[1, 4\]: expected numbers of at most 3",
        ),
        (
            STACK,
            (llama(4), llama(4, width=6)),
            r"recipe:5: model\.layers\.0\.\S+ has different shapes: \[6, 6\] in b, \[4, 4\] in a",
        ),
        (STACK, (llama(4), llama(4, 12)), r"lm_head\.weight has different shapes.*the vocabularies differ"),
        ("merge_method: linear\nmodels: [a, b]", (llama(4), llama(3)), "a has 4, b has 3 layers; use slices"),
        (
            "merge_method: linear\nmodels: [a, b]",
            (llama(2), llama(2, 12)),
            "the vocabularies differ: tokenizer_source",
        ),
        (
            "merge_method: linear\nmodels: [a, b]",
            ({"w": (2, 3)}, {"w": (3, 2)}),
            r"w has different shapes: \[2, 3\] in a",
        ),
        ("merge_method: linear\nmodels: [a, b]", ({"w": (2,), "v": (2,)}, {"w": (2,)}), "b has no tensor v"),
        ("merge_method: linear\nmodels: [a, b]", ({}, {}), "no tensors in common"),
    ],
)
def test_what_does_not_fit(text, models, message):
    with pytest.raises(RequestError, match=message):
        jobs_of(text, *models, counts=[None, None])


def test_rows_may_differ_where_a_tokenizer_is_asked_for():
    _, jobs = jobs_of("merge_method: linear\nmodels: [a, b]\ntokenizer_source: union", llama(2), llama(2, 12))
    assert jobs["lm_head.weight"].inputs == ((0, "lm_head.weight"), (1, "lm_head.weight"))


def test_a_tied_head_is_the_embedding():
    _, jobs = jobs_of("merge_method: linear\nmodels: [a, b]", llama(2, head=False), llama(2), counts=[2, 2])
    assert jobs["lm_head.weight"].inputs == ((0, "model.embed_tokens.weight"), (1, "lm_head.weight"))
    _, jobs = jobs_of("merge_method: linear\nmodels: [a, b]", llama(2, head=False), llama(2, head=False), counts=[2, 2])
    assert "lm_head.weight" not in jobs


@pytest.mark.parametrize(
    ("method", "inputs", "base"),
    [("task_arithmetic", (0,), 1), ("slerp", (1, 0), None), ("karcher", (0, 1), None), ("linear", (0, 1), None)],
)
@pytest.mark.parametrize("models", ["[a]", "[a, b]"])
def test_what_the_base_is_to_a_method(method, inputs, base, models):
    text = f"merge_method: {method}\nmodels: {models}\nbase_model: b\nparameters: {{t: 0.5, weight: 1}}"
    _, jobs = jobs_of(text, {"w": (2,)}, {"w": (2,)})
    assert jobs["w"].inputs == tuple((index, "w") for index in inputs)
    assert jobs["w"].base == (None if base is None else (base, "w"))


def test_slices_list_the_base_themselves():
    text = "merge_method: ties\nbase_model: b\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]"
    with pytest.raises(RequestError, match="lacks the base_model among its sources"):
        read_recipe(text)


def test_layers_are_found_in_names():
    moe = [f"h.{n}.experts.{e}.w" for n in range(2) for e in range(8)]
    assert {(p.prefix, p.index, p.size) for p in find_layers(moe, 2).values()} == {("h", 0, 2), ("h", 1, 2)}
    assert {p.prefix for p in find_layers(moe, None).values()} == {"h"}
    two = [f"vision.layers.{n}.w" for n in range(5)] + [f"text.layers.{n}.w" for n in range(3)]
    places = find_layers(two, 3)
    assert places["text.layers.1.w"].main
    assert not places["vision.layers.1.w"].main
    assert find_layers(["a.w", "b.5.w"], None) == {}


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("transformer.ln_f.weight", True),
        ("gpt_neox.final_layer_norm.weight", True),
        ("embed_out.weight", True),
        ("score.weight", True),
        ("gpt_neox.embed_in.weight", False),
        ("bert.embeddings.LayerNorm.weight", False),
        ("transformer.wpe.weight", False),
    ],
)
def test_what_comes_after_the_layers(name, last):
    assert comes_last(name) is last


def test_heads_are_tied_to_input_embeddings():
    shapes = {"transformer.wte.weight": (10, 4), "transformer.wpe.weight": (8, 4)}
    assert tied_to("lm_head.weight", shapes, (10, 4)) == "transformer.wte.weight"
    assert tied_to("lm_head.bias", shapes, (10,)) is None
    assert tied_to("lm_head.weight", {"w": (1, 1)}, None) is None


MODULES = """
merge_method: linear
modules:
  text_decoder:
    slices:
      - sources: [{model: a, layer_range: [0, 1]}]
  vision_tower:
    models: [a, b]
    parameters: {weight: 3}
  multi_modal_projector:
    models: [b]
"""


def test_modules_are_parts_of_names():
    shapes = llama(2) | {"visual.blocks.0.w": (2,), "visual.merger.w": (2,)}
    recipe, jobs = jobs_of(MODULES, shapes, shapes, counts=[2, 2])
    assert jobs["visual.blocks.0.w"].inputs == ((0, "visual.blocks.0.w"), (1, "visual.blocks.0.w"))
    assert jobs["visual.merger.w"].inputs == ((1, "visual.merger.w"),)
    assert "model.layers.1.mlp.up_proj.weight" not in jobs
    assert recipe.layers([2, 2]) == 1
    assert part_of("shared.weight", ["decoder", "encoder"]) == "decoder"
    assert part_of("x.weight", ["encoder"]) is None
    with pytest.raises(RequestError, match="belong to none of the modules encoder"):
        jobs_of("merge_method: linear\nmodules: {encoder: {models: [a, b]}}", {"x": (1,)}, {"x": (1,)})
    misspelt = MODULES.replace("vision_tower", "vision_towr")
    with pytest.raises(
        RequestError,
        match=r"recipe:7: modules\.vision_towr is part of no tensor's name in its models; .*'vision_tower'",
    ):
        jobs_of(misspelt, shapes, shapes, counts=[2, 2])
