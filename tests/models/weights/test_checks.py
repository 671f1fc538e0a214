import re
import warnings

import pytest
import torch
from torch import nn

from hf_merge3h.errors import RequestError
from hf_merge3h.models.weights.checks import check_live
from hf_merge3h.models.weights.module import LiveModule
from hf_merge3h.models.weights.quantised import is_quantised
from tests.models import tiny


def _fake(name, *bases, module=None, **members):
    """A class by another library's name."""
    return type(name, bases or (nn.Linear,), {"__module__": module or "somewhere", **members})


def _quantised_flag():
    model = tiny.llama()
    model.is_quantized = True
    return model


def _offloaded():
    model = tiny.llama()
    model.lm_head._hf_hook = type("AlignDevicesHook", (), {"offload": True})()
    return model


def _offloaded_with_accelerate():
    from accelerate import cpu_offload

    return cpu_offload(tiny.llama(), execution_device=torch.device("cpu"))


def _zero3():
    model = nn.Linear(2, 2)
    model.weight.ds_id = 3
    return model


def _inside_fsdp(**options):
    """A model in PyTorch's own FSDP, in a group of one; merge_3h of the wrapper is that of the model inside."""

    def make():
        import torch.distributed as dist
        from torch.distributed.fsdp import FullyShardedDataParallel

        dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a group of one is not sharded, it says
                wrapped = FullyShardedDataParallel(tiny.llama(), device_id=torch.device("cpu"), **options)
            return wrapped.merge_3h.__self__
        finally:
            dist.destroy_process_group()

    return make


def _adapted():
    import peft

    return peft.get_peft_model(tiny.llama(), peft.LoraConfig(target_modules=["q_proj"]))


REFUSED = {
    "bitsandbytes 4": (lambda: nn.Sequential(_fake("Linear4bit")(2, 2)), "quantised"),
    "bitsandbytes 8": (lambda: nn.Sequential(_fake("Wrapped", module="bitsandbytes.nn.modules")(2, 2)), "quantised"),
    "gptq": (lambda: nn.Sequential(_fake("TorchQuantLinear", module="gptqmodel.nn_modules")(2, 2)), "quantised"),
    "awq": (lambda: nn.Sequential(_fake("WQLinear_GEMM")(2, 2)), "quantised"),
    "flag": (_quantised_flag, "quantised"),
    "float8": (lambda: nn.ParameterList([nn.Parameter(torch.zeros(2).to(torch.float8_e4m3fn))]), "float8"),
    "offloaded": (_offloaded, "offloaded"),
    "accelerate": (_offloaded_with_accelerate, "offloaded"),
    "meta": (lambda: nn.Linear(2, 2, device="meta"), "meta device"),
    "compiled": (lambda: torch.compile(nn.Linear(2, 2)), "_orig_mod"),
    "data parallel": (lambda: nn.DataParallel(nn.Linear(2, 2)), "model.module"),
    "fsdp": (lambda: _fake("FullyShardedDataParallel")(2, 2), "FSDP"),
    "fsdp2": (lambda: _fake("FSDPLinear", _fake("FSDPModule", object), nn.Linear)(2, 2), "FSDP"),
    "inside fsdp": (_inside_fsdp(), "sharded by FSDP"),
    "inside fsdp, original parameters": (_inside_fsdp(use_orig_params=True), "sharded by FSDP"),
    "zero 3": (_zero3, "ZeRO-3"),
    "peft model": (_adapted, "peft_model.merge_3h"),
    "peft layers": (lambda: _adapted().get_base_model(), "PeftModel"),
    "empty": (lambda: nn.Sequential(nn.ReLU()), "nothing to merge"),
    "integers": (lambda: nn.ParameterList([nn.Parameter(torch.arange(3), requires_grad=False)]), "nothing to merge"),
    "no module": (lambda: {"weight": 1}, "torch.nn.Module"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch 2.13's own, in torch.compile
@pytest.mark.parametrize("case", sorted(REFUSED))
def test_refused(case):
    make, reason = REFUSED[case]
    with pytest.raises(RequestError, match=reason) as caught:
        check_live(make(), "helpful")
    assert re.match(r"helpful\b", str(caught.value))


def test_a_device_map_without_offloading_is_fine(tmp_path):
    tiny.llama().save_pretrained(tmp_path)
    import transformers

    check_live(transformers.LlamaForCausalLM.from_pretrained(tmp_path, device_map="cpu"), "base")


def test_compiled_in_place_is_fine():
    """Its parameters are its own, and its code reads them at every call."""
    model = nn.Linear(2, 2, bias=False)
    model.compile(backend="eager")
    assert model(torch.zeros(1, 2)).tolist() == [[0.0, 0.0]]
    check_live(model, "base")
    LiveModule(model).commit({"weight": torch.eye(2)})
    assert model(torch.tensor([[3.0, 4.0]])).tolist() == [[3.0, 4.0]]


def _packed(name, value):
    layer = nn.Linear(2, 2)
    setattr(layer, name, value)
    return layer


PACKED = {
    "bitsandbytes": lambda: _fake("Linear4bit", module="bitsandbytes.nn.modules")(2, 2),
    "quanto": lambda: _fake("QLinear", _fake("QModuleMixin", object), nn.Linear, module="optimum.quanto.nn")(2, 2),
    "quanto weights": lambda: _packed("weight", nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)),
    "compressed_tensors": lambda: _packed("weight_packed", torch.zeros(2, 1, dtype=torch.int32)),
    "compressed linear": lambda: _fake("CompressedLinear", module="compressed_tensors.linear.compressed_linear")(2, 2),
    "float8": lambda: _packed("weight", nn.Parameter(torch.zeros(2, 2).to(torch.float8_e4m3fn), requires_grad=False)),
    "gguf": lambda: _packed("weight", _fake("GGUFParameter", nn.Parameter)(torch.zeros(2, 2))),
    "gguf package": lambda: _fake("Linear", module="gguf.torch")(2, 2),
    "gptq": lambda: _packed("qweight", torch.zeros(1, dtype=torch.int32)),
    "hqq": lambda: _packed("W_q", torch.zeros(1, dtype=torch.uint8)),
}


@pytest.mark.parametrize("make", PACKED.values(), ids=list(PACKED))
def test_packed_layers_are_told(make):
    assert is_quantised(make())


def test_plain_layers_are_not_packed():
    assert not any(map(is_quantised, (nn.Linear(2, 2), nn.Embedding(3, 2).bfloat16(), nn.LayerNorm(2), nn.Identity())))
