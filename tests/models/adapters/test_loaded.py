"""Where loaded adapters came from: noted when PEFT loads them, and believed while they hold what their file does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

import hf_merge3h
from hf_merge3h.models.adapters.loaded import loaded_origin
from hf_merge3h.models.origin import Origin
from hf_merge3h.models.types import HubOptions
from hf_merge3h.models.weights.headers import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tests.engine.models import llama, peft_model, quiet

PLAIN = Origin("own", "own", card_known=False, live=True, adapter=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    peft_model(llama(), {"own": {"modules_to_save": ["lm_head"]}}).save_pretrained(tmp_path, selected_adapters=["own"])
    (tmp_path / "own" / "README.md").write_text("---\nlicense: mit\n---\n")
    return tmp_path / "own"


def load(folder: Path, **options: Any) -> Any:
    assert hf_merge3h
    with quiet():
        return PeftModel.from_pretrained(llama(), folder, adapter_name="own", **options)


def origin(model: Any) -> Origin:
    return loaded_origin(model, "own", PLAIN, HubOptions(local_files_only=True))


def test_an_adapter_that_holds_what_its_file_does_counts_as_the_file(folder: Path) -> None:
    found = origin(load(str(folder)))
    assert (found.source, found.live, found.adapter) == (str(folder), False, True)
    assert found.card is not None
    assert found.card["license"] == "mit"
    assert [Path(name).name for name, *_ in found.files] == [ADAPTER_WEIGHTS]
    below = load(folder.parent, subfolder="own")
    assert origin(below).source == str(folder)


def test_the_second_adapter_and_narrow_files_too(folder: Path) -> None:
    model = load(folder)
    path = folder / ADAPTER_WEIGHTS
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    assert origin(model).live  # the file is another one now
    with quiet():
        model.load_adapter(folder, "second")
    assert not loaded_origin(model, "second", PLAIN, HubOptions()).live


def _train(model: Any, folder: Path) -> None:
    with torch.no_grad():
        next(each for name, each in model.named_parameters() if "lora_B.own" in name).mul_(1.01)


def _rescale(model: Any, folder: Path) -> None:
    next(each for each in model.modules() if hasattr(each, "set_scale")).set_scale("own", 0.5)


def _narrow(model: Any, folder: Path) -> None:
    model.half()


def _edit(model: Any, folder: Path) -> None:
    path = folder / ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 3}))


def _more(model: Any, folder: Path) -> None:
    path = folder / ADAPTER_WEIGHTS
    embedding = model.get_base_model().model.embed_tokens.weight.detach().clone()
    save_file({**load_file(path), "base_model.model.model.embed_tokens.weight": embedding}, path)


@pytest.mark.parametrize("change", [_train, _rescale, _narrow, _edit, _more])
def test_what_was_changed_since_is_in_memory_only(change: Any, folder: Path) -> None:
    """Its file's card still tells its licence."""
    model = load(folder)
    change(model, folder)
    found = origin(model)
    assert (found.given, found.source, found.live, found.files) == (str(folder), "own", True, ())
    assert found.card is not None
    assert found.card["license"] == "mit"


def test_what_nobody_noted_is_not_known(folder: Path) -> None:
    model = load(folder)
    with quiet():
        model.add_adapter("new", LoraConfig(target_modules=["q_proj"]))
    assert loaded_origin(model, "new", PLAIN, HubOptions()) is PLAIN
    gone = load(folder)
    (folder / ADAPTER_WEIGHTS).unlink()
    assert origin(gone) is PLAIN


def test_the_note_is_not_saved(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    with quiet():
        model.save_pretrained(tmp_path / "again")
    assert str(folder) not in (tmp_path / "again" / "own" / ADAPTER_CONFIG).read_text()
