"""Stacks of layers in models with several parts: each is as deep as its slices say, and the config says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers as tf

from hf_merge3h import merge_recipe

_SIDES: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
_VISION = {**_SIDES, "image_size": 16, "patch_size": 8, "num_hidden_layers": 4}
_TEXT = {**_SIDES, "vocab_size": 50, "num_hidden_layers": 3}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def t5() -> tf.PreTrainedModel:
    sides = {"vocab_size": 50, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 2}
    # as many layers in the encoder as parts in a block of the decoder
    return tf.T5ForConditionalGeneration(tf.T5Config(**sides, num_layers=3, num_decoder_layers=2))


def bart() -> tf.PreTrainedModel:
    sides = {
        "vocab_size": 50,
        "d_model": 16,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "max_position_embeddings": 9,
    }
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_layers": 3, "decoder_layers": 2}
    config = tf.BartConfig(**sides, **heads, **_SPECIAL, decoder_start_token_id=2, forced_eos_token_id=2)
    return tf.BartForConditionalGeneration(config)


def clip() -> tf.PreTrainedModel:
    return tf.CLIPModel(tf.CLIPConfig(text_config={**_TEXT, **_SPECIAL}, vision_config=_VISION, projection_dim=8))


def llava() -> tf.PreTrainedModel:
    text, vision = tf.LlamaConfig(**_TEXT), tf.CLIPVisionConfig(**_VISION)
    return tf.LlavaForConditionalGeneration(tf.LlavaConfig(text_config=text, vision_config=vision))


def stack(*ranges: tuple[int, int]) -> dict[str, Any]:
    return {"slices": [{"sources": [{"model": "model", "layer_range": list(each)}]} for each in ranges]}


WHOLE = {"models": ["model"]}
CASES = {
    "t5": (t5, {"encoder": stack((0, 3), (1, 3)), "decoder": stack((0, 2))}),
    "t5, decoder": (t5, {"encoder": WHOLE, "decoder": stack((0, 2), (1, 2))}),
    "bart": (bart, {"encoder": stack((0, 1)), "decoder": stack((0, 2), (1, 2))}),
    "clip": (clip, {"text_model": stack((0, 3), (2, 3)), "vision_model": stack((0, 2)), "default": WHOLE}),
    "llava": (llava, {"language_model": stack((0, 3), (1, 2)), "vision_tower": stack((0, 3)), "default": WHOLE}),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_each_part_has_its_own_depth(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    make, modules = CASES[name]
    monkeypatch.chdir(tmp_path)
    model = make()
    model.save_pretrained("model")
    manifest = merge_recipe({"merge_method": "passthrough", "modules": modules}, "out", progress=False)
    _, found = type(model).from_pretrained("out", output_loading_info=True)
    assert not any(found.values()), found
    assert manifest.content["warnings"] == []


def test_a_depth_that_the_config_does_not_tell_is_a_warning(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    llava().save_pretrained("model")
    config = Path("model/config.json")
    config.write_text(config.read_text().replace("vision_config", "sight"))
    modules = {"vision_tower": stack((0, 2)), "default": WHOLE}
    manifest = merge_recipe({"merge_method": "passthrough", "modules": modules}, "out", progress=False)
    (warning,) = manifest.content["warnings"]
    assert "has 2 layers in the output and 4 in model, whose config.json" in warning
