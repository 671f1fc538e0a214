import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hf_merge3h.errors import RequestError, SourceError
from hf_merge3h.models.weights.checkpoint import Checkpoint
from hf_merge3h.models.weights.expert import open_expert_weights
from hf_merge3h.models.weights.headers import WEIGHTS
from hf_merge3h.models.weights.module import LiveModule
from tests.models import tiny

ALL = sorted(tiny.ARCHITECTURES)


def _refused(make, error=SourceError):
    with pytest.raises(error) as caught:
        make()
    return str(caught.value)


def _saved(model, folder, **options):
    model.save_pretrained(folder, **options)
    return folder


@pytest.mark.parametrize("name", ALL)
def test_experts_are_streamed(name, tmp_path):
    base, expert = LiveModule(tiny.make(name)), tiny.make(name, seed=1)
    source = open_expert_weights(_saved(expert, tmp_path), base, "helpful")
    assert isinstance(source, Checkpoint)
    there = LiveModule(expert)
    assert all(torch.equal(source.load(key), there.load(key)) for key in base.specs())


def test_plain_modules(tmp_path):
    base = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    save_file(base.state_dict(), tmp_path / WEIGHTS)
    assert set(open_expert_weights(tmp_path, LiveModule(base), "helpful").specs()) >= {"0.weight", "1.running_mean"}
    base(torch.randn(4, 2))
    text = _refused(lambda: open_expert_weights(tmp_path, LiveModule(base), "helpful"), RequestError)
    assert text.count("must be equal") == 3
    save_file({"0.weight": torch.ones(3, 2)}, tmp_path / WEIGHTS)
    text = _refused(lambda: open_expert_weights(tmp_path, LiveModule(base), "helpful"), RequestError)
    assert "6 tensors of the base missing: '0.bias'" in text


def test_a_body_as_an_expert_of_a_whole(tmp_path, capfd):
    """Another class of the same architecture: names differ by a prefix, and transformers knows which."""
    whole, base = tiny.make("llama", seed=1), LiveModule(tiny.make("llama"))
    folder = _saved(whole.model, tmp_path)
    capfd.readouterr()
    source = open_expert_weights(folder, base, "helpful")
    assert capfd.readouterr() == ("", "")  # neither a progress bar nor a loading report
    assert isinstance(source, LiveModule)
    assert source.specs() == base.specs()
    there = LiveModule(whole)
    assert all(torch.equal(source.load(key), there.load(key)) for key in base.specs())


def test_experts_saved_as_they_lie_in_memory(tmp_path):
    expert, base = tiny.make("mixtral", seed=1), LiveModule(tiny.make("mixtral"))
    source = open_expert_weights(_saved(expert, tmp_path, save_original_format=False), base, "helpful")
    there = LiveModule(expert)
    assert all(torch.equal(source.load(key), there.load(key)) for key in base.specs())


def test_missing_heads_are_an_error_and_draw_nothing(tmp_path):
    body = _saved(tiny.llama(tied=False).model, tmp_path)
    base = LiveModule(tiny.llama(tied=False))
    state = torch.random.get_rng_state()
    text = _refused(lambda: open_expert_weights(body, base, "helpful"), RequestError)
    assert "tensor 'lm_head.weight' of the base is missing" in text
    assert torch.equal(state, torch.random.get_rng_state())


def test_ties_that_one_side_stores(tmp_path):
    tied, untied = tiny.make("llama"), tiny.llama(tied=False)
    text = _refused(
        lambda: open_expert_weights(_saved(untied, tmp_path / "untied"), LiveModule(tied), "x"), RequestError
    )
    assert "untie the base first" in text
    with torch.no_grad():
        untied.lm_head.weight.copy_(untied.model.embed_tokens.weight)
    source = open_expert_weights(_saved(untied, tmp_path / "equal"), LiveModule(tied), "helpful")
    assert isinstance(source, Checkpoint)
    assert source.specs() == LiveModule(tied).specs()
    source = open_expert_weights(_saved(tied, tmp_path / "tied"), LiveModule(untied), "helpful")
    assert torch.equal(source.load("lm_head.weight"), tied.model.embed_tokens.weight)


def test_experts_of_another_make(tmp_path):
    base = LiveModule(tiny.make("llama"))
    text = _refused(lambda: open_expert_weights(_saved(tiny.make("gpt2"), tmp_path / "gpt2"), base, "x"), RequestError)
    assert "a model of type 'gpt2', the base is a 'llama'" in text
    bigger = _saved(tiny.llama(vocabulary=60), tmp_path / "bigger")
    text = _refused(lambda: open_expert_weights(bigger, base, "x"), RequestError)
    assert "a vocabulary of 60 tokens, 10 more than the base's 50" in text
    deeper = _saved(tiny.llama(attention_bias=True), tmp_path / "deeper")
    text = _refused(lambda: open_expert_weights(deeper, base, "x"), RequestError)
    assert "self_attn.q_proj.bias" in text


def test_quantised_checkpoints(tmp_path):
    base, folder = LiveModule(tiny.make("llama")), _saved(tiny.make("llama"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    assert "quantised" in _refused(lambda: open_expert_weights(folder, base, "helpful"), RequestError)
    (folder / "config.json").write_text("[]")
    assert "no configuration" in _refused(lambda: open_expert_weights(folder, base, "helpful"))
    (folder / "config.json").write_text(json.dumps(config))
    packed = {name: Checkpoint(folder, "x").load(name).to(torch.float8_e4m3fn) for name in base.specs()}
    save_file(packed, folder / WEIGHTS)
    assert "8 bits" in _refused(lambda: open_expert_weights(folder, base, "helpful"), RequestError)
