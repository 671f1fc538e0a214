import json
import shlex
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save, save_file

from hf_merge3h.errors import Problems, SourceError
from hf_merge3h.models.types import TensorSpec
from hf_merge3h.models.weights.checkpoint import Checkpoint
from hf_merge3h.models.weights.compare import compare, compare_specs
from hf_merge3h.models.weights.headers import INDEX, WEIGHTS, why_no_weights
from hf_merge3h.models.weights.module import LiveModule
from tests.models import tiny

ALL = sorted(tiny.ARCHITECTURES)
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "n": torch.arange(3)}


def _folder(path, **files):
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / name.replace("__", ".")).write_bytes(
            content if isinstance(content, bytes) else json.dumps(content).encode()
        )
    return path


def _refused(make, error=SourceError):
    with pytest.raises(error) as caught:
        make()
    return str(caught.value)


def _saved(model, folder, **options):
    model.save_pretrained(folder, **options)
    return folder


# --- reading ----------------------------------------------------------------------------------------------------


def test_one_file(tmp_path):
    save_file(TENSORS, tmp_path / WEIGHTS)
    checkpoint = Checkpoint(tmp_path, "helpful")
    assert checkpoint.specs() == {"a": TensorSpec((2, 3), torch.float32), "b": TensorSpec((4,), torch.bfloat16)}
    assert set(checkpoint.constants()) == {"n"}
    assert all(torch.equal(checkpoint.load(name), tensor) for name, tensor in TENSORS.items())
    assert checkpoint.vocabulary is None
    checkpoint.close()
    assert torch.equal(checkpoint.load("a"), TENSORS["a"])
    checkpoint.close()


def test_any_single_file_will_do(tmp_path):
    save_file(TENSORS, tmp_path / "weights.safetensors")
    assert set(Checkpoint(tmp_path, "helpful").specs()) == {"a", "b"}


def test_shards_with_few_files_open_at_a_time(tmp_path):
    names = [f"t{number}" for number in range(9)]
    for number, name in enumerate(names):
        save_file({name: torch.full((2,), float(number))}, tmp_path / f"{name}.safetensors")
    _folder(tmp_path, **{INDEX.replace(".", "__"): {"weight_map": {name: f"{name}.safetensors" for name in names}}})
    checkpoint = Checkpoint(tmp_path, "helpful")
    for _ in range(2):
        assert [checkpoint.load(name)[0].item() for name in names] == list(range(9))
        assert len(checkpoint._open) <= 4
    checkpoint.close()
    assert not checkpoint._open


@pytest.mark.parametrize("name", ALL)
def test_what_save_pretrained_writes(name, tmp_path):
    model = tiny.make(name)
    live = LiveModule(model)
    for folder, options in (("whole", {}), ("sharded", {"max_shard_size": "5KB"})):
        checkpoint = Checkpoint(_saved(model, tmp_path / folder, **options), "helpful")
        assert checkpoint.specs() == live.specs()
        assert all(torch.equal(checkpoint.load(key), live.load(key)) for key in live.specs())


def test_empty_and_scalar_tensors(tmp_path):
    save_file({"scalar": torch.tensor(2.0), "empty": torch.zeros(0, 3)}, tmp_path / WEIGHTS)
    checkpoint = Checkpoint(tmp_path, "helpful")
    assert {name: spec.shape for name, spec in checkpoint.specs().items()} == {"scalar": (), "empty": (0, 3)}
    assert checkpoint.load("scalar").item() == 2


# --- what cannot be read ----------------------------------------------------------------------------------------

GOOD = save(TENSORS)


def _file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(**changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


BROKEN = {
    "empty": (b"", "too short"),
    "truncated header": (GOOD[:20], "header alone takes"),
    "truncated": (GOOD[:-5], "promises"),
    "longer": (GOOD + b"more", "promises"),
    "a web page": (b"<!DOCTYPE html><html>" * 9, "header alone takes"),
    "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "no JSON": (_file(b"{not JSON}"), "no JSON"),
    "no text": (_file(b"\xff\xfe\xff"), "no JSON"),
    "deep": (_file(b"[" * 99_999), "nested too deeply"),
    "a list": (_file([1, 2]), "has the entry"),
    "twice": (_file(b'{"a":{},"a":{}}'), "there twice"),
    "no entry": (_file({"a": 3}), "has the entry"),
    "unknown dtype": (_file(_entry(dtype="F99"), bytes(8)), "has the entry"),
    "shape lies": (_file(_entry(shape=[3]), bytes(8)), "lies about its size"),
    "negative": (_file(_entry(shape=[-1, -2]), bytes(8)), "lies about its size"),
    "fractions": (_file(_entry(shape=[2.0]), bytes(8)), "lies about its size"),
    "outside": (_file(_entry(data_offsets=[80, 88]), bytes(8)), "overlap or leave gaps"),
    "overlap": (_file({**_entry(), "b": _entry()["a"]}, bytes(8)), "overlap or leave gaps"),
    "huge": (_file(_entry(shape=[2**62], data_offsets=[0, 2**64]), bytes(8)), "promises"),
}


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_broken_files(case, tmp_path):
    content, reason = BROKEN[case]
    text = _refused(lambda: Checkpoint(_folder(tmp_path, model__safetensors=content), "helpful"))
    assert reason in text
    assert text.startswith(f"helpful: {tmp_path / WEIGHTS} is no whole safetensors file")
    assert "\n" not in text
    assert len(text) < 600


def _index(weight_map):
    return {INDEX.replace(".", "__"): {"weight_map": weight_map}}


def test_an_index_that_is_wrong(tmp_path):
    def opened(weight_map, **files):
        return _refused(lambda: Checkpoint(_folder(tmp_path, **_index(weight_map), **files), "helpful"))

    shards = {"one__safetensors": save({"a": torch.ones(1)}), "two__safetensors": save({"b": torch.ones(1)})}
    text = opened({"a": "one.safetensors", "b": "two.safetensors", "c": "three.safetensors"}, **shards)
    assert "names files that are missing:\n  - three.safetensors" in text
    text = opened({"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}, **shards)
    assert "'b' is in one.safetensors, and it is not" in text
    assert "'c' is in two.safetensors, and it is not" in text
    double = {**shards, "two__safetensors": save({"a": torch.ones(1), "b": torch.ones(1)})}
    assert "'a' is both in one.safetensors and in two.safetensors" in opened(
        {"a": "one.safetensors", "b": "two.safetensors"}, **double
    )
    for outside in ("../x.safetensors", "/etc/passwd", "a/../../x", "C:\\x", "\\x", "x\0y"):
        assert "outside of its folder" in opened({"a": outside})
    for nonsense in ({}, [], {"a": 3}, None):
        assert "no index" in opened(nonsense)
    (tmp_path / INDEX).write_bytes(b"{")
    assert "is no JSON" in _refused(lambda: Checkpoint(tmp_path, "helpful"))


def test_links_out_of_the_folder_are_the_hubs_cache(tmp_path):
    (tmp_path / "blobs").mkdir()
    save_file(TENSORS, tmp_path / "blobs" / "0123")
    folder = _folder(tmp_path / "snapshot")
    (folder / WEIGHTS).symlink_to("../blobs/0123")
    assert torch.equal(Checkpoint(folder, "helpful").load("a"), TENSORS["a"])


def test_nothing_to_read(tmp_path):
    def opened(name, **files):
        return _refused(lambda: Checkpoint(_folder(tmp_path / name, **files), "helpful"))

    assert "holds no weights: expected model.safetensors" in opened("empty", config__json={})
    assert "is an adapter" in opened("adapter", adapter_config__json={}, adapter_model__safetensors=GOOD)
    assert "which of them" in opened("several", x__safetensors=GOOD, y__safetensors=GOOD)
    assert "gguf_file='x.gguf'" in opened("gguf", x__gguf=b"GGUF")
    assert "hold no tensors" in opened("nothing", model__safetensors=_file({}))
    assert "cannot be read" in _refused(lambda: Checkpoint(tmp_path / "none", "helpful"))
    assert "weights.bin" in why_no_weights("me/x", ["weights.bin", "training_args.bin"])
    assert "holds no weights" in why_no_weights("me/x", ["training_args.bin"])


def test_the_line_that_converts_pickles_does(tmp_path):
    model = tiny.make("llama")
    folder = tmp_path / "pickled"
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    text = _refused(lambda: Checkpoint(folder, "helpful"))
    command = shlex.split(text.partition("trust them: ")[2])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True, capture_output=True)
    assert Checkpoint(tmp_path / "CONVERTED", "helpful").specs() == LiveModule(model).specs()


# --- comparing --------------------------------------------------------------------------------------------------


def test_all_differences_at_once():
    base = {name: TensorSpec((4, 2), torch.float32) for name in ("same", "gone", "taller", "whole", "embedding")}
    expert = {
        "same": TensorSpec((4, 2), torch.bfloat16),
        "taller": TensorSpec((5, 3), torch.float32),
        "whole": TensorSpec((4, 2), torch.int64),
        "embedding": TensorSpec((3, 2), torch.float32),
        "new": TensorSpec((1,), torch.float32),
    }
    problems = Problems("no")
    compare_specs(base, expert, "helpful", problems, vocabulary=4)
    assert problems.found == [
        "helpful: 1 tensor of the base missing: 'gone'",
        "helpful: 1 tensor that the base does not have: 'new'",
        "helpful: 'taller' has shape [5, 3], expected [4, 2] as in the base",
        "helpful: 'whole' is torch.int64, expected floating-point values as in the base",
        "helpful: 'embedding': a vocabulary of 3 tokens, 1 fewer than the base's 4; bring both to one by "
        "resize_token_embeddings, with one tokenizer",
    ]


def test_integers_must_be_equal(tmp_path):
    save_file(TENSORS, _folder(tmp_path / "base") / WEIGHTS)
    save_file({**TENSORS, "n": torch.tensor([0, 1, 3])}, _folder(tmp_path / "other") / WEIGHTS)
    base = Checkpoint(tmp_path / "base", "base")
    for folder, count in (("base", 0), ("other", 1)):
        problems = Problems("no")
        compare(base, Checkpoint(tmp_path / folder, "helpful"), problems)
        assert len(problems.found) == count
