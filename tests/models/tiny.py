"""Tiny models of several architectures, with random weights."""

from __future__ import annotations

import torch
import transformers as tf

_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
_SIDES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24}
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def llama(tied: bool = True, vocabulary: int = 50, **options):
    sides = {**_SIDES, **_LAYERS, "vocab_size": vocabulary, **options}
    config = tf.LlamaConfig(**sides, tie_word_embeddings=tied)
    return tf.LlamaForCausalLM(config)


def gpt2():
    return tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, **_TOKENS))


def t5():
    return tf.T5ForConditionalGeneration(
        tf.T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2)
    )


def vit():
    return tf.ViTForImageClassification(
        tf.ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=16,
            patch_size=8,
        )
    )


def mixtral():
    return tf.MixtralForCausalLM(tf.MixtralConfig(**_SIDES, **_LAYERS, num_local_experts=4))


def qwen2_moe():
    return tf.Qwen2MoeForCausalLM(
        tf.Qwen2MoeConfig(
            **_SIDES,
            **_LAYERS,
            moe_intermediate_size=8,
            shared_expert_intermediate_size=8,
            num_experts=4,
            num_experts_per_tok=2,
        )
    )


ARCHITECTURES = {make.__name__: make for make in (llama, gpt2, t5, vit, mixtral, qwen2_moe)}


def make(name: str, seed: int = 0):
    """A tiny model, the same for the same seed, in evaluation mode."""
    torch.manual_seed(seed)
    return ARCHITECTURES[name]().eval()
