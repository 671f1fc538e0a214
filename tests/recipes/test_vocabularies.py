"""Vocabularies that differ: rows by their tokens' texts, as mergekit 0.1.5 puts them together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import hf_merge3h
from hf_merge3h import RequestError
from hf_merge3h.engine.recipes import plan_recipe
from hf_merge3h.recipes.read import read_recipe

from .vocabularies import CASES, VOCABULARIES, save_model

EXPECTED = Path(__file__).parent / "expected"
TENSORS: dict[str, dict[str, torch.Tensor]] = {}
for _key, _tensor in load_file(EXPECTED / "vocabularies.safetensors").items():
    TENSORS.setdefault(_key.split("|")[0], {})[_key.split("|", 1)[1]] = _tensor
TOKENS: dict[str, dict[str, int]] = json.loads((EXPECTED / "vocabularies.json").read_text())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vocabularies")
    return {name: save_model(name, folder, TENSORS[name]) for name in VOCABULARIES}


def merged(text: str, models: dict[str, Path], out: Path) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
    recipe = out.with_suffix(".yaml")
    recipe.write_text(text.format(**models))
    hf_merge3h.merge_recipe(recipe, out, progress=False, diagnostics=False)
    return AutoTokenizer.from_pretrained(out).get_vocab(), load_file(out / "model.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_rows_are_mergekits(case: str, models: dict[str, Path], tmp_path: Path) -> None:
    ids, tensors = merged(CASES[case], models, tmp_path / "out")
    wanted = TOKENS[case]
    assert set(ids) == set(wanted)
    assert "union" in CASES[case] or ids == wanted  # mergekit leaves the numbers of a union to chance
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.config.vocab_size == len(tensors["lm_head.weight"])
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        theirs = TENSORS[f"out {case}"][name]
        assert tensors[name].shape == theirs.shape
        for text, number in wanted.items():
            assert torch.allclose(tensors[name][ids[text]], theirs[number], atol=1e-6), (name, text)
        assert torch.allclose(tensors[name][len(ids) :], theirs[len(ids) :], atol=1e-6), name


def test_numbers_of_special_tokens_follow_the_tokenizer(models: dict[str, Path], tmp_path: Path) -> None:
    path = models["mixed"] / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bos_token_id": 2, "eos_token_id": 1}))
    (models["mixed"] / "generation_config.json").write_text(json.dumps({"bos_token_id": 2, "eos_token_id": [1, 6]}))
    merged(CASES["mixed_other"], models, tmp_path / "other")
    merged(CASES["mixed_base"], models, tmp_path / "base")
    for name, bos, eos, further in (("other", 2, 1, [1, 6]), ("base", 1, 2, 2)):
        config = AutoModelForCausalLM.from_pretrained(tmp_path / name).config
        assert (config.bos_token_id, config.eos_token_id) == (bos, eos)
        assert json.loads((tmp_path / name / "generation_config.json").read_text())["eos_token_id"] == further
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        assert tokenizer.convert_ids_to_tokens(eos) == tokenizer.eos_token == "</s>"


def test_added_tokens_are_tokens(models: dict[str, Path], tmp_path: Path) -> None:
    ids, _ = merged(CASES["union"], models, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    wanted = ["t1", "<|im_start|>", "t2", "<|other|>"]
    assert tokenizer("".join(wanted))["input_ids"] == [ids[text] for text in wanted]
    assert [ids[text] for text in VOCABULARIES["base"][0]] == list(range(12))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("merge_method: linear\nmodels: [{model: {near}}, {model: {chat}}]", "tokenizer_source .* matches rows"),
        ("TASK\ntokenizer: {source: union, tokens: {'<new>': {}}}", "<new>.*no model has it.*kind: zero"),
        ("TASK\ntokenizer: {source: union, tokens: {t1: {source: {kind: model_token, model: {near}, token: t77}}}}",
         "has no token 't77'; did you mean"),
        ("TASK\ntokenizer: {source: union, tokens: {t1: {source: {kind: model_token, model: {near}, token: '%%%%'}}}}",
         "has no token '%%%%'; its tokenizer.json lists"),
        ("TASK\ntokenizer_source: unionn", "tokenizer_source='unionn': expected base, union or a model; did you mean"),
        ("TASK\ntokenizer: {source: union, tokens: {t1: {source: {kind: model_token, model: {near}, token_id: 77}}}}",
         "has no row 77"),
        ("TASK\ntokenizer_source: {bare}", "bare: has no tokenizer"),
    ],
)  # fmt: skip
def test_what_cannot_be_matched(text: str, error: str, models: dict[str, Path], tmp_path: Path) -> None:
    bare = save_model("near", tmp_path)
    for path in bare.glob("tokenizer*"):
        path.unlink()
    both = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: {near}}, {model: {chat}}]"
    text = text.replace("TASK", both)
    for name, path in {**models, "bare": bare.rename(tmp_path / "bare")}.items():
        text = text.replace(f"{{{name}}}", str(path))
    with pytest.raises(RequestError, match=f"(?s){error}"):
        plan_recipe(read_recipe(text))


def test_a_new_token_may_be_like_another(models: dict[str, Path], tmp_path: Path) -> None:
    text = """
merge_method: linear
models: [{{model: {near}, parameters: {{weight: 1}}}}, {{model: {chat}, parameters: {{weight: 1}}}}]
tokenizer:
  source: base
  tokens:
    <new>: {{source: {{kind: model_token, model: {near}, token: t3}}}}
    <zero>: {{source: {{kind: zero}}}}
"""
    ids, tensors = merged(text, models, tmp_path / "out")
    rows = tensors["model.embed_tokens.weight"]
    like = TENSORS["near"]["model.embed_tokens.weight"][VOCABULARIES["near"][0].index("t3")]
    assert torch.allclose(rows[ids["<new>"]], like)
    assert not rows[ids["<zero>"]].any()
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("t1<new>")["input_ids"] == [ids["t1"], ids["<new>"]]


def plain(kind: str, texts: list[str], merges: list[tuple[str, str]]) -> dict[str, Any]:
    from tokenizers import Tokenizer, models

    if kind == "bpe":
        made = Tokenizer(models.BPE({text: number for number, text in enumerate(texts)}, merges))
    else:
        made = Tokenizer(models.Unigram([(text, -float(number + 1)) for number, text in enumerate(texts)], 0, False))
    return json.loads(made.to_str())


def test_unions_of_subwords() -> None:
    from tokenizers import Tokenizer

    from hf_merge3h.models.tokens import as_tokens, union

    one = as_tokens(plain("bpe", ["a", "b", "c", "ab"], [("a", "b")]))
    two = as_tokens(plain("bpe", ["c", "b", "a", "bc", "abc"], [("b", "c"), ("a", "bc")]))
    both = union(one, [two])
    assert list(both.ids) == ["a", "b", "c", "ab", "bc", "abc"]
    assert list(both.ids.values()) == list(range(6))
    made = Tokenizer.from_str(json.dumps(both.content))
    assert made.encode("cab").tokens == ["c", "ab"]
    assert made.encode("cbc").tokens == ["c", "bc"]
    scores = union(as_tokens(plain("unigram", ["<u>", "a"], [])), [as_tokens(plain("unigram", ["<u>", "b", "ab"], []))])
    assert list(scores.ids) == ["<u>", "a", "b", "ab"]
    assert Tokenizer.from_str(json.dumps(scores.content)).encode("ab").tokens == ["ab"]
