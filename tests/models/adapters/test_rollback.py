"""Writing is all or nothing, and refuses what it cannot do before it changes anything."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from peft import LoHaConfig, LoraConfig
from torch import nn

from hf_merge3h.errors import RequestError
from hf_merge3h.linalg.low_rank import LowRank
from hf_merge3h.models.adapters import write
from hf_merge3h.models.adapters.folder import meta_copy
from hf_merge3h.models.adapters.read import read_adapter
from hf_merge3h.models.adapters.write import check_writable, write_adapter

from . import zoo
from .test_write import PAIRS, combine, pair


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that a rollback must restore, in comparable form."""
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    return {
        "tensors": tensors, "flags": flags, "modules": [(name, id(each)) for name, each in model.named_modules()],
        "configs": {name: (id(config), repr(config)) for name, config in model.peft_config.items()},
        "active": (model.active_adapter, list(model.active_adapters)),
        "names": (list(model.base_model.targeted_module_names), list(model.base_model.targeted_parameter_names)),
    }  # fmt: skip


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one["tensors"]) == list(other["tensors"])
    for name, value in one["tensors"].items():
        assert torch.equal(value, other["tensors"][name]), name
    for key in one.keys() - {"tensors"}:
        assert one[key] == other[key], key


def test_overflow_is_refused() -> None:
    _, model, sources = pair(*PAIRS["zero base"])
    before = snapshot(model)
    huge = {"1.weight": LowRank(torch.full((6, 1), 1e6), torch.full((1, 6), 1e6))}
    with pytest.raises(RequestError, match=r"1.lora_A.merged.weight does not fit into torch.float16"):
        write_adapter(model, "merged", huge, sources=sources, dtype=torch.float16)
    same(before, snapshot(model))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("at", ["add_adapter", "set_adapter", "_fill_layer"])
@pytest.mark.parametrize("name", ["merged", "default"])
def test_all_or_nothing(monkeypatch: pytest.MonkeyPatch, name: str, at: str, kind: type[BaseException]) -> None:
    """Whatever is raised, wherever: the adapters, the active one and every tensor are as before, and usable."""
    base, model, sources = pair(*PAIRS["head saved by both"])
    deltas: dict[str, Any] = combine(sources, zoo.clean(base))
    deltas["model.layers.0.mlp.up_proj.weight"] = torch.ones(24, 16)  # a module that no adapter has touched so far
    deltas["model.norm.weight"] = torch.ones(16)
    before, logits = snapshot(model), zoo.outputs(model)
    place = write if at == "_fill_layer" else type(model)
    original, calls = getattr(place, at), []

    def broken(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        calls.append(1)
        if at != "_fill_layer" or len(calls) == 2:
            raise kind("stop")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(place, at, broken)
        with pytest.raises(kind, match="stop"):
            write_adapter(model, name, deltas, sources=sources, overwrite=True)
    same(before, snapshot(model))
    assert torch.equal(zoo.outputs(model), logits)
    write_adapter(model, name, deltas, sources=sources, overwrite=True)
    assert model.active_adapter == name


def test_requires_grad_of_sources_is_kept() -> None:
    base, model, sources = pair(*PAIRS["one layer"])
    model.set_requires_grad("second")
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    write_adapter(model, "merged", combine(sources, zoo.clean(base)), sources=sources)
    assert {name: p.requires_grad for name, p in model.named_parameters() if name in before} == before
    assert any(before.values())


@pytest.mark.parametrize(
    "name", ["", "a.b", "../up", "model", "lora_A", "lora", "weight", "keys", "q_proj", "base_layer", 3, None]
)
def test_bad_names(name: Any) -> None:
    model = zoo.adapted(zoo.llama(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(RequestError, match="adapter_name="):
        check_writable(model, name, overwrite=False)
    check_writable(model, "balanced-3H", overwrite=False)


def test_other_kinds_of_models_are_refused() -> None:
    with pytest.raises(RequestError, match="this PeftModel holds LOHA adapters"):
        check_writable(zoo.adapted(zoo.llama(), LoHaConfig(target_modules=["q_proj"])), "merged", overwrite=False)
    prompts = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    with pytest.raises(RequestError, match="PROMPT_TUNING adds to the model's input and changes no weights"):
        check_writable(peft.get_peft_model(zoo.llama(), prompts), "merged", overwrite=False)
    with pytest.raises(RequestError, match="peft_model='LlamaForCausalLM'"):
        check_writable(zoo.llama(), "merged", overwrite=False)


def test_what_no_adapter_can_hold() -> None:
    _, model, sources = pair(*PAIRS["Conv1D, bias"])
    before = snapshot(model)
    deltas = {
        "transformer.h.0.attn.c_attn.bias": torch.ones(48),
        "transformer.wte.weight": LowRank(torch.ones(zoo.VOCABULARY, 1), torch.ones(1, 16)),
    }
    with pytest.raises(RequestError, match=r"(?s)lora_bias, which \['transformer.h.0.attn.c_attn'\].*transformer.wte"):
        write_adapter(model, "merged", deltas, sources=sources)
    with pytest.raises(RequestError, match=r"'nowhere.weight' is no parameter of this model"):
        write_adapter(model, "merged", {"nowhere.weight": torch.ones(2, 2)}, sources=sources)
    same(before, snapshot(model))


def test_meta_base() -> None:
    """Adapters over a base without values: LoRA is written all the same, whole modules cannot be."""
    base = meta_copy(zoo.llama())
    model = zoo.adapted(base, LoraConfig(r=2, target_modules=["q_proj"]))
    delta = LowRank(torch.randn(16, 2), torch.randn(2, 16))
    name = "model.layers.0.self_attn.q_proj.weight"
    write_adapter(model, "merged", {name: delta}, sources=[])
    torch.testing.assert_close(
        zoo.dense(read_adapter(model, "merged").delta(name, lambda: delta.dense())), delta.dense()
    )
    with pytest.raises(RequestError, match=r"'model.norm' would be saved as base \+ delta, but the base has no values"):
        write_adapter(model, "again", {"model.norm.weight": torch.ones(16)}, sources=[])
