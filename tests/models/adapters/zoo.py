"""Tiny models with real PEFT adapters whose every tensor is random, for the adapter tests."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from hf_merge3h.linalg.low_rank import LowRank

VOCABULARY = 40


@contextmanager
def quiet() -> Iterator[None]:
    """PEFT's own warnings (ties, missing biases, embeddings that are saved) are not what these tests are about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def llama(tied: bool = False, **changes: Any) -> nn.Module:
    config = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": VOCABULARY, "tie_word_embeddings": tied,
    }  # fmt: skip
    return _seeded(lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**config, **changes})))


def classifier() -> nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=VOCABULARY, num_labels=3, pad_token_id=0,
    )  # fmt: skip
    return _seeded(lambda: transformers.LlamaForSequenceClassification(config))


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=VOCABULARY, n_positions=16)
    return _seeded(lambda: transformers.GPT2LMHeadModel(config))


def t5() -> nn.Module:
    config = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, vocab_size=VOCABULARY, decoder_start_token_id=0
    )
    return _seeded(lambda: transformers.T5ForConditionalGeneration(config))


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4
    )
    return _seeded(lambda: transformers.ViTForImageClassification(config))


def mixtral() -> nn.Module:
    config = transformers.MixtralConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=VOCABULARY, num_local_experts=3, num_experts_per_tok=2,
    )  # fmt: skip
    return _seeded(lambda: transformers.MixtralForCausalLM(config))


class Convolutions(nn.Module):
    """One convolution of each kind, a bare stack of matrices, an embedding, and a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6)
        self.line = nn.Conv1d(6, 5, 3, padding=1)
        self.point = nn.Conv2d(5, 4, 1)
        self.plane = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.space = nn.Conv3d(6, 4, (2, 3, 3), padding=(1, 1, 1))
        self.norm = nn.LayerNorm(4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.line(self.table(tokens).mT)
        x = self.plane(self.point(x.unsqueeze(-1)))
        return self.norm(self.space(x.unsqueeze(-1)).mean((-1, -2, -3)))


def convolutions() -> nn.Module:
    return _seeded(Convolutions)


def linears() -> nn.Module:
    """Bare Linear layers with zero weights, twelve of them so that '1' and '11' are told apart."""
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(12)))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def inputs(model: nn.Module) -> dict[str, Tensor] | tuple[Tensor, ...]:
    if isinstance(model, nn.Sequential):
        return (torch.linspace(-1, 1, 12).view(2, 6),)
    if isinstance(model, Convolutions):
        return (torch.arange(14).view(2, 7),)
    if isinstance(model, transformers.ViTForImageClassification):
        return {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)}
    tokens = torch.arange(3, 13).view(2, 5)
    if isinstance(model, transformers.T5ForConditionalGeneration):
        return {"input_ids": tokens, "decoder_input_ids": tokens}
    return {"input_ids": tokens}


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    """Logits of any of these models, with or without PEFT around it, in evaluation mode."""
    model.eval()
    given = inputs(model.get_base_model() if isinstance(model, PeftModel) else model)
    result = model(**given) if isinstance(given, dict) else model(*given)
    return result if isinstance(result, Tensor) else result.logits


def adapted(base: nn.Module, *configs: PeftConfig, seed: int = 1) -> PeftModel:
    """A PeftModel over a copy of the base, with adapters 'default', 'second', ... of random values."""
    with quiet():
        model = get_peft_model(copy.deepcopy(base), copy.deepcopy(configs[0]))
        for number, config in enumerate(configs[1:]):
            model.add_adapter(("second", "third")[number], copy.deepcopy(config))
    return randomised(model, seed)


@torch.no_grad()
def randomised(model: PeftModel, seed: int) -> PeftModel:
    """Fill every tensor of every adapter with numbers that are no initial values."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if any(f".{adapter}." in f".{name}." for adapter in model.peft_config) and "ranknum" not in name:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if "magnitude" in name or "modules_to_save" in name or "ia3" in name or "ln_tuning" in name:
                parameter.mul_(1 + 0.2 * noise)
                parameter.add_(0.1 * noise)
            else:
                parameter.add_(0.3 * noise)
    return model


def clean(base: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in base.named_parameters()}


@torch.no_grad()
def oracle(base: nn.Module, model: PeftModel, adapter: str = "default") -> dict[str, Tensor]:
    """merge_and_unload minus base, worked out by PEFT in float64 (a float32 sum would round small deltas away)."""
    with quiet():
        twin = copy.deepcopy(model).double()
        if model.active_adapter != adapter:
            twin.set_adapter(adapter)
        merged = dict(twin.merge_and_unload().named_parameters())
    return {name: merged[name] - before.double() for name, before in clean(base).items()}


def dense(delta: LowRank | Tensor) -> Tensor:
    return delta.dense() if isinstance(delta, LowRank) else delta


def save(model: PeftModel, folder: Path, adapter: str = "default") -> Path:
    """Plain save_pretrained; the folder that holds the adapter."""
    with quiet():
        model.save_pretrained(str(folder), selected_adapters=[adapter])
    return folder if adapter == "default" else folder / adapter


def reload(base: nn.Module, folder: Path) -> PeftModel:
    """Plain PeftModel.from_pretrained on a fresh copy of the base."""
    with quiet():
        return PeftModel.from_pretrained(copy.deepcopy(base), str(folder))


def _seeded(make: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
        for parameter in model.parameters():  # biases and norms are no zeros and ones
            with torch.no_grad():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return model
