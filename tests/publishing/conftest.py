"""A fake Hub with the real client, and a merge to publish there."""

import pytest
import torch
from safetensors.torch import save_file

from hf_merge3h.manifest import Manifest
from hf_merge3h.manifest.files import hash_file
from tests.fake_hub import TOKEN, serve
from tests.publishing.manifests import content, evaluation


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The real client, pointed at a fake Hub; waits are short."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http, disable_progress_bars
    from transformers.utils import hub as transformers_hub

    with serve() as running:
        monkeypatch.setattr(transformers_hub, "_hf_api", None)  # kept for a process, with the Hub of its first use
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        template = running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
        disable_progress_bars()
        yield running


@pytest.fixture
def merge(tmp_path):
    """A folder with a merge in it: two shards, a tokenizer, a manifest that knows them."""
    folder = tmp_path / "merge"
    folder.mkdir()
    for number in (1, 2):
        save_file({f"w{number}": torch.full((64,), float(number))}, folder / f"model-0000{number}-of-00002.safetensors")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text("{}")
    (folder / "notes.txt~").write_text("mine")
    (folder / ".secret").write_text("mine")
    made = content(evaluation=evaluation())
    made["output"]["hashes"] = {each.name: hash_file(each) for each in folder.glob("*[sn]") if each.suffix != ".txt~"}
    Manifest(made).save(folder)
    return folder
