"""Whole checkpoints, tensor by tensor: the same as in memory, whatever the files look like."""

from __future__ import annotations

import copy
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hf_merge3h import OutputError, RequestError, get_method
from hf_merge3h.engine import stream, walk
from hf_merge3h.engine.recipes import plan_recipe
from hf_merge3h.engine.steps import make_stream_plan
from hf_merge3h.engine.stream_plan import Progress
from hf_merge3h.linalg import blocks, native
from hf_merge3h.manifest import Manifest
from hf_merge3h.recipes.types import ModelReference, Recipe, TensorJob
from hf_merge3h.registry import Parts
from tests.engine.models import METHODS, ROLES, expert_count, peft_model, quiet, whole_experts
from tests.engine.recipes import family, recipe, save
from tests.models import tiny


def run(made: Recipe, out: Path, **options: Any) -> Manifest:
    return stream.merge_plan(make_stream_plan(made, device="cpu"), out, **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found.update(load_file(path))
    return found


@pytest.fixture(scope="module")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, list[Any]]:
    folder = tmp_path_factory.mktemp("family")
    return folder, *family(folder)


@pytest.mark.parametrize("method", METHODS)
def test_streamed_is_merged_in_memory(method: str, tiny_family: Any, tmp_path: Path, monkeypatch: Any) -> None:
    folder, base, experts = tiny_family
    count = expert_count(method)
    live = copy.deepcopy(base)
    monkeypatch.setattr(blocks, "BLOCK", 100)  # many parts, as large tensors have
    monkeypatch.setattr(walk, "PIECE", 300)
    with quiet():
        live.merge_3h(dict(zip(ROLES, experts[:count], strict=False)), method=method, progress=False)
    run(recipe(folder, method, ("e1", "e2", "e3")[:count]), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    for name, tensor in live.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


def test_whole_checkpoints_need_neither_transformers_nor_peft(tiny_family: Any, tmp_path: Path) -> None:
    """Their imports take longer than a small merge."""
    folder, *_ = tiny_family
    told = {
        "merge_method": "ties",
        "base_model": str(folder / "base"),
        "models": [{"model": str(folder / "e1")}, {"model": str(folder / "e2")}],
    }
    code = f"""
import sys, hf_merge3h
hf_merge3h.merge_recipe({told!r}, {str(tmp_path / "out")!r}, diagnostics=False, progress=False)
print([name for name in ("transformers", "peft", "accelerate", "matplotlib", "scipy") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
    assert (tmp_path / "out" / "merge3h.json").exists()


IN_READINGS = [
    ("dare_linear", {"rescale": "l1"}),
    ("dare_ties", {"rescale": "l1", "density": (0.2, 0.5, 1.0)}),
    ("della", {"rescale": "l1", "density": (0.2, 0.5, 1.0)}),
    ("della_linear", {"rescale": "none"}),
    ("breadcrumbs", {"density": (0.3, 0.9, 1.0), "gamma": (0.0, 0.1, 0.2)}),
    ("breadcrumbs_ties", {"density": 0.5, "gamma": 0.05}),
    ("sce", {"select_topk": 0.3, "equal_below": 1e-6}),
    ("ties", {"density": (0.1, 0.5, 1.0), "election": "count"}),
    ("model_stock", {"cosine_floor": 1e-6}),
    ("model_stock", {"filter_wise": True}),
    ("slerp", {"t": 0.3}),
]


PLAIN = [(name, {}) for name in METHODS if get_method(name).parts is not None]


@pytest.mark.parametrize(
    ("method", "parameters", "dtype"),
    [
        *((*each, torch.bfloat16) for each in (*PLAIN, *IN_READINGS)),
        *(("sce", {"select_topk": 0.5}, dtype) for dtype in (torch.float32, torch.float16)),
    ],
    ids=str,
)
def test_compiled_loops_give_the_same_bits(
    method: str, parameters: dict[str, Any], dtype: torch.dtype, tmp_path: Path, monkeypatch: Any
) -> None:
    family(tmp_path, dtype=dtype)
    monkeypatch.setattr(blocks, "BLOCK", 100)
    monkeypatch.setattr(walk, "PIECE", 300)
    made = recipe(tmp_path, method, ("e1", "e2", "e3")[: expert_count(method)], parameters=parameters)
    monkeypatch.setattr(native, "_kernels", None)
    run(made, tmp_path / "plain", diagnostics=False)
    monkeypatch.setattr(native, "_kernels", native._found())
    plain = weights(tmp_path / "plain")
    for out, measured in (
        ("measured", True),
        ("unmeasured", False),
    ):
        run(made, tmp_path / out, diagnostics=measured)
        compiled = weights(tmp_path / out)
        assert compiled.keys() == plain.keys()
        for name, tensor in plain.items():
            assert torch.equal(compiled[name], tensor), name


@pytest.mark.parametrize(("method", "parameters"), IN_READINGS, ids=str)
def test_parts_are_what_the_whole_is(
    method: str, parameters: Any, tiny_family: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    folder, base, experts = tiny_family
    count = expert_count(method)
    monkeypatch.setattr(blocks, "BLOCK", 100)
    monkeypatch.setattr(walk, "PIECE", 300)
    live = copy.deepcopy(base)
    with quiet():
        live.merge_3h(dict(zip(ROLES, experts[:count], strict=False)), method=method, progress=False, **parameters)
    measured = run(recipe(folder, method, ("e1", "e2", "e3")[:count], parameters=parameters), tmp_path / "out")
    found = weights(tmp_path / "out")
    assert all(torch.equal(found[name], t) for name, t in live.state_dict().items() if name in found)
    plain = recipe(folder, method, ("e1", "e2", "e3")[:count], parameters=parameters)
    run(plain, tmp_path / "plain", diagnostics=False)
    names = [name for name in measured.outputs if name.endswith(".safetensors")]
    assert names
    assert all((tmp_path / "plain" / name).read_bytes() == (tmp_path / "out" / name).read_bytes() for name in names)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "della", "breadcrumbs", "sce", "model_stock", "slerp"])
def test_no_tensor_is_in_memory_as_a_whole(method: str) -> None:
    parts = get_method(method).parts
    assert parts is not None
    bound = get_method(method).bind({"rescale": "l1"} if method in ("dare_ties", "della") else {}, 2)
    supplied = {"keys": torch.zeros(2, 1, dtype=torch.int64), "statistics": None}
    assert isinstance(parts(bound, torch.ones(2), supplied, (64, 32)), Parts)


@pytest.mark.parametrize("method", ["ties", "linear", "dare_ties", "tsv_merge"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(method: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base, experts = family(tmp_path, dtype=dtype)
    live = copy.deepcopy(base)
    with quiet():
        live.merge_3h(dict(zip(ROLES, experts, strict=True)), method=method, progress=False)
    run(recipe(tmp_path, method), tmp_path / "out")
    found = weights(tmp_path / "out")
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    assert all(torch.equal(found[name], t) for name, t in live.state_dict().items() if name in found)
    wide = run(recipe(tmp_path, method, out_dtype="float32"), tmp_path / "wide")
    assert wide.content["output"]["dtypes"] == ["float32"]
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("method", ["linear", "ties", "sce"])
def test_nothing_depends_on_the_files(method: str, tiny_family: Any, tmp_path: Path) -> None:
    folder, base, experts = tiny_family
    for name, model in [("base", base), *((f"e{n}", each) for n, each in enumerate(experts, start=1))]:
        save(model, tmp_path / name, max_shard_size="3KB")
    one = run(recipe(folder, method), tmp_path / "one")
    two = run(recipe(tmp_path, method), tmp_path / "two")
    assert one.outputs == two.outputs
    assert one.content["recipe"]["resolved"] == two.content["recipe"]["resolved"]
    many = run(recipe(folder, method), tmp_path / "many", max_shard_size="2KB", diagnostics=False)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert many.outputs == "not recorded"
    first, last = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "many", dtype="auto")


def test_adapters_are_applied_on_the_fly(tmp_path: Path) -> None:
    base, _ = family(tmp_path, 0)
    for seed, name in enumerate(("e1", "e2", "e3")):
        peft = peft_model(base, {"one": {"r": 2}}, seed=seed)
        peft.save_pretrained(tmp_path / f"a{name}", selected_adapters=["one"])
    adapters = {name: (str(tmp_path / f"a{name}" / "one"),) for name in ("e1", "e2", "e3")}
    for method in ("task_arithmetic", "r_tsvm", "ties", "linear", "slerp"):
        live = copy.deepcopy(base)
        names = ("e1", "e2", "e3")[: expert_count(method)]
        sources = dict(zip(ROLES, [adapters[name][0] for name in names], strict=False))
        with quiet():
            live.merge_3h(sources, method=method, progress=False)
        run(recipe(tmp_path, method, names, adapters=adapters), tmp_path / method)
        for name, tensor in weights(tmp_path / method).items():
            assert torch.allclose(tensor, live.state_dict()[name], atol=1e-6), (method, name)


def test_a_copied_head_is_dropped(tmp_path: Path) -> None:
    family(tmp_path, 3)
    path = tmp_path / "e2" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path, {"format": "pt"})
    run(recipe(tmp_path, "ties"), tmp_path / "out")
    assert "lm_head.weight" not in weights(tmp_path / "out")
    tensors["lm_head.weight"] += 1
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(RequestError, match=r"e2: 'lm_head.weight' and .* differ"):
        run(recipe(tmp_path, "ties"), tmp_path / "out", overwrite=True)


def test_a_copied_head_goes_by_what_the_class_ties(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = tiny.gpt2()
    experts = whole_experts(base)
    for name, model in [("base", base), *((f"e{n}", each) for n, each in enumerate(experts, start=1))]:
        save(model, tmp_path / name)
    path = tmp_path / "e1" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["transformer.wte.weight"].clone()}, path, {"format": "pt"})
    run(recipe(tmp_path, "ties"), tmp_path / "out")
    assert "lm_head.weight" not in weights(tmp_path / "out")


def test_adapters_of_other_bases_are_told(tmp_path: Path) -> None:
    base, _ = family(tmp_path, 0)
    adapters = {}
    for seed, name in enumerate(("e1", "e2", "e3")):
        peft = peft_model(base, {"one": {"r": 2}}, seed=seed)
        peft.peft_config["one"].base_model_name_or_path = "me/other" if seed else "me/base"
        peft.save_pretrained(tmp_path / f"a{name}", selected_adapters=["one"], save_embedding_layers=False)
        adapters[name] = (str(tmp_path / f"a{name}" / "one"),)
    manifest = run(recipe(tmp_path, "ties", adapters=adapters), tmp_path / "out")
    assert any("record different bases" in each and "me/other" in each for each in manifest.content["warnings"])


def test_layers_are_stacked_by_passthrough(tiny_family: Any, tmp_path: Path) -> None:
    folder, base, _ = tiny_family

    def jobs(shapes: Any, counts: Any) -> tuple[TensorJob, ...]:
        made = []
        for name in shapes[0]:
            for layer in range(3 if ".layers.0." in name else 0):
                source = name.replace(".0.", f".{min(layer, 1)}.")
                made.append((name.replace(".0.", f".{layer}."), source))
            if ".layers." not in name:
                made.append((name, name))
        return tuple(
            TensorJob(new, "passthrough", ((0, old),), None, (1.0,), {"scale": 0.5 if "norm" in old else None})
            for new, old in made
        )

    made = Recipe((ModelReference(str(folder / "base")),), None, jobs, lambda counts: 3)
    run(made, tmp_path / "out")
    found, state = weights(tmp_path / "out"), base.state_dict()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.config.num_hidden_layers == 3
    assert torch.equal(found["model.layers.2.mlp.up_proj.weight"], state["model.layers.1.mlp.up_proj.weight"])
    assert torch.equal(found["model.norm.weight"], state["model.norm.weight"] * 0.5)


def test_without_a_base(tiny_family: Any, tmp_path: Path) -> None:
    folder, _, experts = tiny_family
    run(recipe(folder, "linear", base=None), tmp_path / "out")
    run(recipe(folder, "multislerp", base=None), tmp_path / "sphere")
    for name, tensor in weights(tmp_path / "out").items():
        stack = torch.stack([expert.state_dict()[name] for expert in experts])
        assert torch.allclose(tensor, stack.mean(0), atol=1e-7)
        assert torch.allclose(weights(tmp_path / "sphere")[name], get_method("multislerp")(stack), atol=1e-6)
    with pytest.raises(RequestError, match="needs base_model"):
        run(recipe(folder, "ties", base=None), tmp_path / "none")


def test_all_problems_at_once(tmp_path: Path) -> None:
    family(tmp_path)
    path = tmp_path / "e1" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path)
    path = tmp_path / "e2" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"] = torch.zeros(53, 16)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(2, 2)
    save_file(tensors, path)
    with pytest.raises(RequestError) as raised:
        make_stream_plan(recipe(tmp_path, "ties"), device="cpu")
    text = str(raised.value)
    assert "e1: 'model.norm.weight' is missing" in text
    assert "a vocabulary of 53 tokens, base has 50" in text
    assert "shape [2, 2], base has [24, 16]" in text


def test_models_that_cannot_be_read_are_listed(tmp_path: Path) -> None:
    family(tmp_path)
    config = json.loads((tmp_path / "e1" / "config.json").read_text())
    (tmp_path / "e1" / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    (tmp_path / "e2" / "model.safetensors").write_bytes(b"short")
    shutil.rmtree(tmp_path / "e3")
    with pytest.raises(RequestError) as raised:
        make_stream_plan(recipe(tmp_path, "ties"), device="cpu")
    assert str(raised.value).count("\n  - ") == 3
    family(tmp_path)
    (tmp_path / "e1" / "config.json").write_text(json.dumps({**config, "model_type": "mistral"}))
    with pytest.raises(RequestError, match="a model of type 'mistral', base is a 'llama'"):
        make_stream_plan(recipe(tmp_path, "ties"), device="cpu")


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    _, experts = family(tmp_path)
    with torch.no_grad():
        experts[1].model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")
    save(experts[1], tmp_path / "e2")
    for method in ("linear", "ties", "sce"):
        with pytest.raises(RequestError, match=r"layers.1.mlp.up_proj.*not finite.*\[3, 5\]"):
            run(recipe(tmp_path, method), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["linear", "ties", "slerp"])
def test_a_broken_base_is_named(method: str, tmp_path: Path) -> None:
    family(tmp_path, 2)
    path = tmp_path / "base" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("inf")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(RequestError, match=r"base.*layers.1.mlp.up_proj.*not finite"):
        run(recipe(tmp_path, method, ("e1", "e2")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["task_arithmetic", "tsv_merge", "ties"])
def test_what_does_not_fit_into_the_dtype_is_refused(method: str, tmp_path: Path) -> None:
    family(tmp_path)
    made = recipe(tmp_path, method, parameters={"scale": 1e9}, out_dtype="float16")
    with pytest.raises(RequestError, match=r"the merged '.*' has entries up to .* which do not fit into torch.float16"):
        run(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["linear", "ties", "tsv_merge", "slerp"])
def test_float64_is_added_in_float64(method: str, tmp_path: Path) -> None:
    count = expert_count(method)
    base, experts = family(tmp_path, count, dtype=torch.float64)
    live = copy.deepcopy(base)
    with quiet():
        live.merge_3h(dict(zip(ROLES, experts, strict=False)), method=method, progress=False)
    run(recipe(tmp_path, method, ("e1", "e2", "e3")[:count]), tmp_path / "out")
    found = weights(tmp_path / "out")
    assert {tensor.dtype for tensor in found.values()} == {torch.float64}
    assert all(torch.equal(found[name], t) for name, t in live.state_dict().items() if name in found)


@pytest.mark.parametrize("method", ["linear", "ties", "tsv_merge"])
def test_single_numbers_are_merged(method: str, tmp_path: Path) -> None:
    family(tmp_path)
    for number, name in enumerate(("base", "e1", "e2", "e3")):
        path = tmp_path / name / "model.safetensors"
        save_file({**load_file(path), "model.scale": torch.tensor(float(number))}, path, {"format": "pt"})
    run(recipe(tmp_path, method), tmp_path / "out")
    merged = weights(tmp_path / "out")["model.scale"]
    assert (merged.shape, float(merged)) == ((), pytest.approx(2.0))


@pytest.mark.parametrize("method", ["ties", "tsv_merge"])
def test_what_torch_is_set_to_changes_nothing(method: str, tiny_family: Any, tmp_path: Path) -> None:
    made = recipe(tiny_family[0], method)
    run(made, tmp_path / "plain")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            run(made, tmp_path / "odd")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    odd = weights(tmp_path / "odd")
    assert all(torch.equal(tensor, odd[name]) for name, tensor in weights(tmp_path / "plain").items())


def test_the_inputs_are_no_output(tiny_family: Any) -> None:
    folder, _, _ = tiny_family
    for out in (folder / "base", folder):
        with pytest.raises(RequestError, match="out="):
            run(recipe(folder, "linear"), out, overwrite=True)


def test_progress_and_side_files(tiny_family: Any, tmp_path: Path) -> None:
    folder, _, _ = tiny_family
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / "base" / name).write_text(json.dumps({"name": name, "chat_template": "old"}))
    told: list[Progress] = []
    run(recipe(folder, "ties", chat_template="{{ messages }}"), tmp_path / "out", tell=told.append)
    assert told[-1].done == told[-1].total
    assert told[-1].left == 0
    assert [each.done for each in told] == sorted(each.done for each in told)
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text())["name"] == "tokenizer.json"
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_chat_templates_by_name_and_the_most_common(tmp_path: Path) -> None:
    family(tmp_path)
    for name, template in (("e1", "{{ 1 }}"), ("e2", "{{ 2 }}"), ("e3", "{{ 2 }}")):
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    run(recipe(tmp_path, "linear", chat_template="auto"), tmp_path / "auto")
    assert (tmp_path / "auto" / "chat_template.jinja").read_text() == "{{ 2 }}"
    run(recipe(tmp_path, "linear", chat_template="chatml"), tmp_path / "named")
    assert "<|im_start|>" in (tmp_path / "named" / "chat_template.jinja").read_text()
    with pytest.raises(RequestError, match="did you mean 'llama3'"):
        plan_recipe(recipe(tmp_path, "linear", chat_template="llama-3"))


@pytest.mark.parametrize("make", ["gpt2", "t5"])
def test_other_architectures(make: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = getattr(tiny, make)()
    experts = whole_experts(base)
    for name, model in [("base", base), *((f"e{n}", each) for n, each in enumerate(experts, start=1))]:
        save(model, tmp_path / name)
    live = copy.deepcopy(base)
    with quiet():
        live.merge_3h(dict(zip(ROLES, experts, strict=True)), method="ties", progress=False)
    run(recipe(tmp_path, "ties"), tmp_path / "out")
    loaded = type(base).from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in live.state_dict().items())


def test_a_disk_that_fills_up_leaves_nothing(tiny_family: Any, tmp_path: Path, monkeypatch: Any) -> None:
    folder, _, _ = tiny_family
    (folder / "base" / "vocab.txt").write_text("a")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full)  # the weights are written by then
        with pytest.raises(OutputError, match=r"out=.*No space left"):
            run(recipe(folder, "ties"), tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        with pytest.raises(RequestError, match=r"bytes of free space; 1,000 are left"):
            run(recipe(folder, "ties"), tmp_path / "out")
    (folder / "base" / "vocab.txt").unlink()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_broken_files_beside_the_weights_are_found_by_the_plan(name: str, tmp_path: Path) -> None:
    family(tmp_path)
    (tmp_path / "base" / name).write_text("{")
    with pytest.raises(RequestError, match=f"{name} is no JSON"):
        plan_recipe(recipe(tmp_path, "ties"), device="cpu")
    (tmp_path / "base" / name).write_text("[]")
    with pytest.raises(RequestError, match=f"{name} holds no JSON object"):
        plan_recipe(recipe(tmp_path, "ties"), device="cpu")


SCRIPT = """
import sys, time, torch
from pathlib import Path
from hf_merge3h.models.weights import writer
from tests.engine.recipes import recipe
from hf_merge3h.engine.steps import make_stream_plan
from hf_merge3h.engine.stream import merge_plan
write = writer.ShardWriter.write
def slow(self, name, part):
    time.sleep(0.01)
    write(self, name, part)
writer.ShardWriter.write = slow
plan = make_stream_plan(recipe(Path(sys.argv[1]), "task_arithmetic"), device="cpu")
print("go", flush=True)
merge_plan(plan, sys.argv[2], overwrite=True)
"""


def test_a_kill_leaves_nothing_or_all(tiny_family: Any, tmp_path: Path) -> None:
    folder, _, _ = tiny_family
    out = tmp_path / "out"
    before = run(recipe(folder, "linear"), out).outputs
    chance = random.Random(0)
    for _ in range(4):
        command = [sys.executable, "-c", SCRIPT, str(folder), str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.3 * chance.random())
            os.kill(process.pid, signal.SIGKILL)
        assert json.loads((out / "merge3h.json").read_text())["output"]["hashes"]
        weights(out)
    after = run(recipe(folder, "linear"), out, overwrite=True).outputs
    assert after == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
