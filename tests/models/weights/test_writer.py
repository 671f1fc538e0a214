"""Shards whose tensors come in any order, and a folder that appears whole or not at all."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import blake3
import pytest
import torch
from safetensors.torch import load_file

from hf_merge3h.errors import OutputError, RequestError
from hf_merge3h.models.types import TensorSpec
from hf_merge3h.models.weights import output
from hf_merge3h.models.weights.ahead import FileHash, ReadAhead
from hf_merge3h.models.weights.checkpoint import Checkpoint
from hf_merge3h.models.weights.output import OutputFolder
from hf_merge3h.models.weights.writer import ShardWriter, parse_size, plan_shards

TENSORS = {
    "a": torch.randn(7, 3).bfloat16(),
    "b": torch.randn(5),
    "c": torch.tensor(3.5),
    "d": torch.empty(0, 4),
    "e": torch.arange(6),
    "f": torch.randn(3).half(),
    "zü": torch.randn(2, 2, 2),
}


def specs() -> dict[str, TensorSpec]:
    return {name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in TENSORS.items()}


def write(folder: Path, size: int, pieces: int = 1000, hashes: bool = True) -> dict[str, str]:
    shards = plan_shards(specs(), size)
    writer = ShardWriter(folder, shards, hashes=hashes)
    for shard in shards:
        for name in shard.tensors:
            for part in TENSORS[name].reshape(-1).split(pieces):
                writer.write(name, part)
    return writer.close()


@pytest.mark.parametrize("pieces", [1, 2, 1000])
@pytest.mark.parametrize("size", [1, 40, 10**9])
def test_what_is_written_is_read_again(tmp_path: Path, size: int, pieces: int) -> None:
    hashes = write(tmp_path, size, pieces)
    found = Checkpoint(tmp_path, "x")
    for name, tensor in TENSORS.items():
        loaded = found.load(name)
        assert loaded.dtype == tensor.dtype
        assert torch.equal(loaded, tensor), name
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert sorted(hashes) == files
    for file in files:
        load_file(tmp_path / file)
        assert hashes[file] == blake3.blake3((tmp_path / file).read_bytes()).hexdigest()
    assert (len(files) > 1) == (tmp_path / "model.safetensors.index.json").exists()


@pytest.mark.parametrize("size", [40, 10**9])
def test_tensors_may_come_in_any_order(tmp_path: Path, size: int) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    expected = write(tmp_path / "one", size)
    writer = ShardWriter(tmp_path / "two", plan_shards(specs(), size))
    halves = {name: tensor.reshape(-1).split(2) for name, tensor in TENSORS.items()}
    for turn in range(20):  # a part of each tensor in turn, the last tensors first
        for name in reversed(halves):
            if turn < len(halves[name]):
                writer.write(name, halves[name][turn])
            if turn == len(halves[name]):
                writer.finished(name)
    assert writer.close() == expected
    for file in expected:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_tensor_that_is_missing_is_no_whole_file(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, plan_shards(specs(), 10**9))
    writer.write("a", TENSORS["a"])
    with pytest.raises(AssertionError, match="not written"):
        writer.close()
    writer.abort()


def test_the_index_is_that_of_transformers(tmp_path: Path) -> None:
    write(tmp_path, 60)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in TENSORS.values())
    assert index["weight_map"].keys() == TENSORS.keys()


def test_a_large_part_is_written_in_several_goes(tmp_path: Path) -> None:
    large = torch.arange(100_003)
    writer = ShardWriter(tmp_path, plan_shards({"a": TensorSpec((100_003,), large.dtype)}, 10**9), hashes=False)
    writer.write("a", large)
    writer.close()
    assert torch.equal(Checkpoint(tmp_path, "x").load("a"), large)


@pytest.mark.parametrize("size", ["", "0", "-1", "lots", "GB", "5XB", True, 0, "inf", "nan"])
def test_sizes_that_are_none(size: object) -> None:
    with pytest.raises(RequestError, match="max_shard_size="):
        parse_size(size)  # type: ignore[arg-type]


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    """The file system refuses to let a file grow: as a full one does, half way."""
    code = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from hf_merge3h.errors import OutputError\n"
        "from hf_merge3h.models.weights.writer import *\n"
        "from hf_merge3h.models.weights.output import OutputFolder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "tensor = torch.zeros(1 << 20)\n"
        "shards = plan_shards({'a': TensorSpec((1 << 20,), torch.float32)}, 10**9)\n"
        "try:\n"
        "    with OutputFolder(Path(sys.argv[1])) as folder:\n"
        "        writer = ShardWriter(folder, shards)\n"
        "        for part in tensor.split(1 << 12): writer.write('a', part)\n"
        "        writer.close()\n"
        "except OutputError as error:\n"
        "    print(error); sys.exit(1)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout.startswith(
        f"out='{tmp_path / 'out'}': cannot be written: File too large; write smaller files (max"
    )
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1 << 16


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with OutputFolder(target) as folder:
        (folder / "config.json").write_text("{}")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["config.json"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o777 & ~umask


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "config.json").write_text("old")
    with pytest.raises(RequestError, match="does not exist"), OutputFolder(target):
        pass
    with pytest.raises(KeyboardInterrupt), OutputFolder(target, overwrite=True):
        raise KeyboardInterrupt
    assert (target / "config.json").read_text() == "old"
    with OutputFolder(target, overwrite=True) as folder:
        (folder / "config.json").write_text("new")
    assert (target / "config.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_stranger_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("dear")
    with pytest.raises(RequestError, match="holds a model"), OutputFolder(tmp_path / "out", overwrite=True):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="this is a file"), OutputFolder(tmp_path / "file", overwrite=True):
        pass


def test_what_a_killed_run_left_is_put_right(tmp_path: Path) -> None:
    (tmp_path / ".out.merge3h-new-dead").mkdir()
    (tmp_path / ".out.merge3h-new-dead" / ".lock").write_text("")
    (tmp_path / ".out.merge3h-old-1").mkdir()
    (tmp_path / ".out.merge3h-old-1" / "config.json").write_text("old")
    with (
        OutputFolder(tmp_path / "other") as alive,
        pytest.raises(RequestError),
        OutputFolder(tmp_path / "out"),
    ):
        pass
    assert not alive.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]
    assert (tmp_path / "out" / "config.json").read_text() == "old"


def test_a_run_at_work_is_left_alone(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out") as one:
        with OutputFolder(tmp_path / "out") as other:
            assert one.exists()
            (other / "config.json").write_text("2")
        assert one.exists()
        (one / "config.json").write_text("1")
        one_name = one.name
        (tmp_path / "out" / "config.json").unlink()
    assert not (tmp_path / one_name).exists()


@pytest.mark.parametrize(("owner", "name"), [(output, "_locked"), (Path, "unlink")], ids=["before locking", "unlocked"])
def test_no_run_takes_another_one_for_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    called = getattr(owner, name)

    def other_run() -> None:
        with OutputFolder(tmp_path / "out", overwrite=True) as folder:
            (folder / "config.json").write_text("theirs")

    other = threading.Thread(target=other_run)

    def with_other_run(path: Path) -> Any:
        monkeypatch.setattr(owner, name, called)
        done = called(path) if owner is Path else None
        other.start()
        other.join(0.3)  # long enough for it to see our folder
        return done if owner is Path else called(path)

    monkeypatch.setattr(owner, name, with_other_run)
    with OutputFolder(tmp_path / "out", overwrite=True) as folder:
        (folder / "config.json").write_text("ours")
    other.join()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["config.json"]


def test_what_was_replaced_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    with OutputFolder(target) as folder:
        (folder / "config.json").write_text("old")
    with monkeypatch.context() as killed, OutputFolder(target, overwrite=True) as folder:
        (folder / "config.json").write_text("new")
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if the run ended here
    assert len(list(tmp_path.iterdir())) == 2
    shutil.rmtree(target)
    with OutputFolder(target) as folder:
        (folder / "config.json").write_text("newer")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_folder_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"expected a place to write in: .*; give another folder"):
        OutputFolder(tmp_path / name).check()
    assert list(tmp_path.iterdir()) == []


def test_space_is_asked_for_first(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="bytes of free space"):
        OutputFolder(tmp_path / "out").check_space(1 << 60)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RequestError, match="cannot be written"):
        OutputFolder(tmp_path / "out").check()


def test_a_place_that_takes_no_folder() -> None:
    with pytest.raises((RequestError, OutputError)), OutputFolder(Path("/proc/out")):
        pass


def test_read_ahead_hashes_every_byte(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_bytes(os.urandom(5_000_000))
    two.write_bytes(b"")
    ahead = ReadAhead([[(one, 100, 200)], [(one, 0, 50)]], [one, two])
    ahead.advance(1)
    assert ahead.hashes() == {path: blake3.blake3(path.read_bytes()).hexdigest() for path in (one, two)}
    ReadAhead([[(one, 0, 10)]] * 3).stop()


def test_a_file_that_becomes_shorter_while_it_is_hashed(tmp_path: Path) -> None:
    path = tmp_path / "1"
    path.write_bytes(os.urandom(3_000_000))
    hasher = FileHash(path)
    hasher.reach(10)
    os.truncate(path, 2_000_000)
    with pytest.raises(OSError, match="become shorter: it ends at byte 2000000 of 3000000"):
        hasher.reach(3_000_000)


def test_what_is_given_up_is_not_hashed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reach, asked = FileHash.reach, []

    def late(self: FileHash, end: int) -> None:
        while not self.stopped:  # for ever, unless it is told
            time.sleep(0.001)
        reach(self, end)
        asked.append(self._reached)

    write(tmp_path, 10**9, hashes=False)
    monkeypatch.setattr(FileHash, "reach", late)
    file = next(tmp_path.glob("*.safetensors"))
    with ReadAhead([[(file, 0, 100)]], [file]):
        pass
    shards = plan_shards(specs(), 10**9)
    writer = ShardWriter(tmp_path, shards)
    for name in shards[0].tensors:
        writer.write(name, TENSORS[name])
        writer.finished(name)
    writer.abort()
    assert asked
    assert not any(asked)
