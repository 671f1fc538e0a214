"""Writing adapters: what is written is the delta that was given, and it survives saving and plain loading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

from hf_merge3h.errors import RequestError
from hf_merge3h.linalg.low_rank import LowRank
from hf_merge3h.models.adapters.folder import load_adapter
from hf_merge3h.models.adapters.read import AdapterDeltas, read_adapter
from hf_merge3h.models.adapters.write import write_adapter

from . import zoo

ATTENTION = ["q_proj", "v_proj"]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
PAIRS: dict[str, tuple[Callable[[], nn.Module], list[LoraConfig]]] = {
    "ranks, alphas and targets differ": (
        zoo.llama,
        [
            LoraConfig(r=3, lora_alpha=7, target_modules=ATTENTION, task_type="CAUSAL_LM"),
            LoraConfig(r=2, use_rslora=True, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 1}),
        ],
    ),
    "dora beside lora": (
        zoo.llama,
        [LoraConfig(r=3, use_dora=True, target_modules=ATTENTION), LoraConfig(r=2, target_modules=["q_proj"])],
    ),
    "one layer": (
        zoo.llama,
        [
            LoraConfig(r=2, target_modules=ATTENTION, layers_to_transform=[1]),
            LoraConfig(r=1, target_modules=["up_proj"]),
        ],
    ),
    "head saved by both": (
        zoo.llama,
        [LoraConfig(r=2, target_modules=ATTENTION, modules_to_save=["lm_head"])] * 2,
    ),
    "head saved by one": (
        zoo.llama,
        [
            LoraConfig(r=2, target_modules=ATTENTION, modules_to_save=["lm_head"]),
            LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"]),
        ],
    ),
    "norm saved, tied embedding": (
        lambda: zoo.llama(tied=True),
        [
            LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"]),
            LoraConfig(r=2, target_modules=["embed_tokens"], modules_to_save=["norm"]),
        ],
    ),
    "tied tokens": (
        lambda: zoo.llama(tied=True),
        [
            LoraConfig(r=2, target_modules=ATTENTION, trainable_token_indices=[3, 5]),
            LoraConfig(target_modules=ATTENTION),
        ],
    ),
    "Conv1D, bias": (
        zoo.gpt2,
        [
            LoraConfig(r=3, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, lora_bias=True),
            LoraConfig(r=2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True),
        ],
    ),
    "bias in all": (zoo.vit, [LoraConfig(r=2, target_modules=["q_proj", "projection"], lora_bias=True)] * 2),
    "t5": (zoo.t5, [LoraConfig(r=2, target_modules=["q", "wi", "shared"]), LoraConfig(r=3, target_modules=["wo"])]),
    "vit head": (
        zoo.vit,
        [
            LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["classifier"]),
            LoraConfig(target_modules=["v_proj"]),
        ],
    ),
    "classifier": (zoo.classifier, [LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS")] * 2),
    "mixtral": (
        zoo.mixtral,
        [
            LoraConfig(r=2, target_modules=["q_proj", "o_proj"], target_parameters=EXPERTS),
            LoraConfig(r=3, lora_alpha=2, target_modules=["q_proj"], target_parameters=EXPERTS),
        ],
    ),
    "convolutions": (
        zoo.convolutions,
        [
            LoraConfig(r=2, target_modules=["line", "point", "space"], lora_bias=True),
            LoraConfig(r=3, target_modules=["plane"], modules_to_save=["norm"]),
        ],
    ),
    "zero base": (zoo.linears, [LoraConfig(r=2, target_modules=["1"]), LoraConfig(r=3, target_modules=["11", "5"])]),
}  # fmt: skip


def combine(
    sources: list[AdapterDeltas], before: dict[str, Tensor], factors: tuple[float, ...] = (0.7, -0.4)
) -> dict[str, Any]:
    """A weighted sum, exact: factors side by side where all are factors, else dense."""
    result: dict[str, Any] = {}
    for name in dict.fromkeys(name for source in sources for name in source.specs()):
        terms = []
        for source, factor in zip(sources, factors, strict=True):
            delta = source.delta(name, lambda name=name: before[name].float())
            if delta is not None:
                terms.append(factor * delta)
        low = all(isinstance(term, LowRank) for term in terms)
        result[name] = LowRank.cat(terms) if low else sum(zoo.dense(term) for term in terms)
    return result


def pair(make: Callable[[], nn.Module], configs: list[LoraConfig]) -> tuple[nn.Module, PeftModel, list[AdapterDeltas]]:
    base = make()
    model = zoo.adapted(base, *configs)
    return base, model, [read_adapter(model, name) for name in ("default", "second")]


@pytest.mark.parametrize(("make", "configs"), PAIRS.values(), ids=list(PAIRS))
def test_written_is_given(make: Callable[[], nn.Module], configs: list[LoraConfig], tmp_path: Path) -> None:
    base, model, sources = pair(make, configs)
    plain = zoo.outputs(base)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    deltas = combine(sources, zoo.clean(base))
    write_adapter(model, "merged", deltas, sources=sources)

    assert model.active_adapters == ["merged"] == [model.active_adapter]
    after = model.state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == flags.get(name, False), name
    assert not any(tensor.is_meta for tensor in after.values())

    with torch.no_grad():
        expected = make()
        for name, parameter in expected.named_parameters():
            if name in deltas and not any(name in source.partial for source in sources):
                parameter.add_(zoo.dense(deltas[name]))
    logits = zoo.outputs(model)
    if not any(source.partial for source in sources):
        torch.testing.assert_close(logits, zoo.outputs(expected), rtol=1e-4, atol=1e-4)
    with model.disable_adapter():
        torch.testing.assert_close(zoo.outputs(model), plain, rtol=1e-5, atol=1e-6)

    folder = zoo.save(model, tmp_path, "merged")
    loaded = zoo.reload(base, folder)
    assert torch.equal(zoo.outputs(loaded), logits)
    for written in (
        read_adapter(model, "merged"),
        read_adapter(loaded, "default"),
        load_adapter(folder, base, "merged"),
    ):
        for name, delta in deltas.items():
            true = zoo.dense(delta)
            got = written.delta(name, lambda name=name: zoo.clean(base)[name])
            got = torch.zeros_like(true) if got is None else zoo.dense(got)
            torch.testing.assert_close(got, true, rtol=0, atol=3e-6 * max(1.0, float(true.abs().max())), msg=name)
    if not any(source.partial for source in sources) and "plane" not in dict(base.named_modules()):
        check_merges(base, loaded, expected)  # PEFT cannot merge lora_bias where one layer (plane) has no bias


def check_merges(base: nn.Module, loaded: PeftModel, expected: nn.Module) -> None:
    with zoo.quiet():
        merged = dict(loaded.merge_and_unload().named_parameters())
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(merged[name], parameter, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("flip", [False, True])
def test_loaded_beside_folder(tmp_path: Path, flip: bool) -> None:
    """The model's own wrappers decide the form: what is LoRA there stays LoRA, what is whole stays whole."""
    base = zoo.llama()
    one = LoraConfig(r=2, target_modules=["q_proj", "lm_head"])
    other = LoraConfig(r=3, target_modules=["v_proj"], modules_to_save=["lm_head"], trainable_token_indices=[1, 4])
    if flip:
        one, other = other, one
    model = zoo.adapted(base, one)
    elsewhere = zoo.adapted(base, other, seed=2)
    folder = zoo.save(elsewhere, tmp_path / "other")
    sources = [read_adapter(model, "default"), load_adapter(folder, base, "other")]
    deltas = combine(sources, zoo.clean(base))
    write_adapter(model, "merged", deltas, sources=sources)
    expected = zoo.llama()
    with torch.no_grad():
        for name, parameter in expected.named_parameters():
            if name in deltas:
                parameter.add_(zoo.dense(deltas[name]))
    torch.testing.assert_close(zoo.outputs(model), zoo.outputs(expected), rtol=1e-4, atol=1e-5)
    loaded = zoo.reload(base, zoo.save(model, tmp_path / "merged", "merged"))
    assert torch.equal(zoo.outputs(loaded), zoo.outputs(model))
    assert model.peft_config["merged"].modules_to_save == (["lm_head"] if flip else None)


def test_config_says_what_is_meant() -> None:
    _, model, sources = pair(*PAIRS["ranks, alphas and targets differ"])
    rank3, rank1 = LowRank(torch.randn(16, 3), torch.randn(3, 16)), LowRank(torch.randn(16, 1), torch.randn(1, 16))
    deltas = {"model.layers.0.self_attn.q_proj.weight": rank3, "model.layers.1.self_attn.q_proj.weight": rank1}
    write_adapter(model, "merged", deltas, sources=sources)
    config = model.peft_config["merged"]
    assert (config.r, config.lora_alpha, config.use_rslora, config.lora_dropout) == (3, 3, False, 0.0)
    assert config.target_modules == {"q_proj"}
    assert config.task_type == "CAUSAL_LM"
    layers = model.base_model.model.model.layers
    assert [layer.self_attn.q_proj.r["merged"] for layer in layers] == [3, 1]
    assert [layer.self_attn.q_proj.scaling["merged"] for layer in layers] == [1.0, 1.0]
    A, B = (getattr(layers[0].self_attn.q_proj, f"lora_{each}")["merged"].weight for each in "AB")
    assert torch.equal(A, rank3.right)
    assert torch.equal(B, rank3.left)


def test_layers_1_is_not_layers_11() -> None:
    _, model, sources = pair(*PAIRS["zero base"])
    ranks = {1: 1, 11: 2, 5: 3}
    deltas = {f"{at}.weight": LowRank(torch.randn(6, rank), torch.randn(rank, 6)) for at, rank in ranks.items()}
    write_adapter(model, "merged", deltas, sources=sources)
    assert {at: model.base_model.model[at].r["merged"] for at in ranks} == ranks
    assert model.peft_config["merged"].target_modules == {"1", "11", "5"}


def test_nothing_to_write_is_still_an_adapter(tmp_path: Path) -> None:
    base, model, sources = pair(*PAIRS["zero base"])
    write_adapter(model, "merged", {"1.weight": LowRank.zeros((6, 6)), "5.bias": torch.zeros(6)}, sources=sources)
    assert torch.equal(zoo.outputs(zoo.reload(base, zoo.save(model, tmp_path, "merged"))), zoo.outputs(base))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, None])
def test_dtype(dtype: torch.dtype | None) -> None:
    model = zoo.adapted(zoo.llama().bfloat16(), *PAIRS["one layer"][1])
    sources = [read_adapter(model, name) for name in ("default", "second")]
    write_adapter(model, "merged", combine(sources, {}), sources=sources, dtype=dtype)
    written = {value.dtype for name, value in model.named_parameters() if ".merged." in name}
    assert written == {dtype or torch.float32}  # PEFT keeps adapters in float32 on 16-bit bases
    assert zoo.outputs(model).isfinite().all()


@pytest.mark.parametrize("existing", ["second", "default"])
def test_overwrite(existing: str, tmp_path: Path) -> None:
    base, model, sources = pair(*PAIRS["head saved by both"])
    deltas = combine(sources, zoo.clean(base))
    with pytest.raises(RequestError, match=rf"adapter_name='{existing}'.*overwrite=True"):
        write_adapter(model, existing, deltas, sources=sources)
    write_adapter(model, existing, deltas, sources=sources, overwrite=True)
    assert set(model.peft_config) == {"default", "second"}
    assert model.active_adapters == [existing]
    written = read_adapter(model, existing)
    for name, delta in deltas.items():
        got = zoo.dense(written.delta(name, lambda name=name: zoo.clean(base)[name]))
        torch.testing.assert_close(got, zoo.dense(delta), rtol=0, atol=2e-6)
    assert torch.equal(zoo.outputs(zoo.reload(base, zoo.save(model, tmp_path, existing))), zoo.outputs(model))


def test_overwrite_the_only_adapter() -> None:
    base = zoo.linears()
    model = zoo.adapted(base, LoraConfig(r=2, target_modules=["1"]))
    sources = [read_adapter(model, "default")]
    write_adapter(model, "default", {"11.weight": torch.eye(6)}, sources=sources, overwrite=True)
    assert set(read_adapter(model, "default").specs()) == {"11.weight"}


KERNELS = {"line": (5, 18), "point": (4, 5), "plane": (6, 36), "space": (4, 108)}


def _flat(rank: int = 2) -> dict[str, LowRank]:
    generator = torch.Generator().manual_seed(3)
    return {
        f"{name}.weight": LowRank(torch.randn(m, rank, generator=generator), torch.randn(rank, n, generator=generator))
        for name, (m, n) in KERNELS.items()
    }


def _check_kernels(written: AdapterDeltas, base: nn.Module, deltas: dict[str, LowRank]) -> None:
    for name, factors in deltas.items():
        before = zoo.clean(base)[name]
        got = zoo.dense(written.delta(name, lambda before=before: before))
        torch.testing.assert_close(got, factors.dense().view(before.shape), rtol=1e-6, atol=2e-6, msg=name)


def test_factors_of_flattened_kernels(tmp_path: Path) -> None:
    base = zoo.convolutions()
    model = zoo.adapted(base, LoraConfig(r=3, target_modules=["line", "table"]))
    sources = [read_adapter(model, "default")]
    write_adapter(model, "merged", _flat(), sources=sources)
    written = read_adapter(model, "merged")
    _check_kernels(written, base, _flat())
    assert {name: written.rank_of(name) for name in _flat()} == dict.fromkeys(_flat(), 2)
    with torch.no_grad():
        for name, factors in _flat().items():
            parameter = base.get_parameter(name)
            parameter.add_(factors.dense().view(parameter.shape))
    torch.testing.assert_close(zoo.outputs(model), zoo.outputs(base), rtol=1e-4, atol=1e-4)
    loaded = zoo.reload(zoo.convolutions(), zoo.save(model, tmp_path, "merged"))
    assert torch.equal(zoo.outputs(loaded), zoo.outputs(model))


def test_factors_of_flattened_kernels_in_whole_modules() -> None:
    """Where LoRA cannot hold a kernel (dilation), or the model has the module whole already, it is saved whole."""
    base = zoo.convolutions()
    base.space.dilation = (1, 2, 1)
    config = LoraConfig(r=3, target_modules=["table"], modules_to_save=["line", "plane"])
    model = zoo.adapted(base, config)
    write_adapter(model, "merged", _flat(), sources=[read_adapter(model, "default")])
    written = read_adapter(model, "merged")
    _check_kernels(written, base, _flat())
    assert written.whole_names() >= {"line.weight", "plane.weight", "space.weight"}
    assert "point.weight" not in written.whole_names()
