"""Models that are loaded for the user: what they are called, and how they are recognised again."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from peft import LoraConfig, get_peft_model

from hf_merge3h.errors import RequestError, SourceError
from hf_merge3h.models.experts import disk_names
from hf_merge3h.models.open import Base, from_pretrained, live_base, load_model, open_expert, plain_skeleton
from hf_merge3h.models.sources import skeleton_of
from hf_merge3h.models.types import HubOptions
from hf_merge3h.models.weights.module import LiveModule
from tests.fake_hub import FakeHub, Repo, serve

from . import tiny
from .adapters.zoo import quiet


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[FakeHub]:
    folder = tmp_path_factory.mktemp("model")
    tiny.make("llama").save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    adapter = {
        "adapter_config.json": json.dumps({"peft_type": "LORA", "base_model_name_or_path": "me/base"}).encode(),
        "adapter_model.safetensors": files["model.safetensors"],
    }
    repos = {"me/base": Repo(files, revisions=("main", "v2")), "me/adapter": Repo(adapter)}
    with serve(repos) as running:
        yield running


@pytest.fixture(autouse=True)
def _client(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    disable_progress_bars()


@pytest.mark.parametrize("given", ["me/base", "me/base@v2", None])
def test_a_model_from_the_hub_is_called_by_its_id_and_commit(hub: FakeHub, tmp_path, given: str | None) -> None:
    options = HubOptions(cache_dir=str(tmp_path))
    model = load_model(given, [] if given else ["me/adapter"], options)
    name = f"me/base@{hub.repos['me/base'].sha}"
    assert model.name_or_path == model.config._name_or_path == name
    base = live_base(LiveModule(model), options)
    assert base.label == name
    assert (base.origin.source, base.origin.commit) == ("me/base", hub.repos["me/base"].sha)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert adapted.peft_config["default"].base_model_name_or_path == name


def test_a_model_from_a_folder_is_called_by_that_folder(tmp_path) -> None:
    tiny.make("llama").save_pretrained(tmp_path / "base")
    for given in (tmp_path / "base", str(tmp_path / "base")):
        model = load_model(given, [], HubOptions())
        assert model.name_or_path == model.config._name_or_path == str(tmp_path / "base")


@pytest.mark.parametrize("expert", ["me/base", "me/base@main", "me/base@v2"])
def test_the_base_is_recognised_among_the_experts(tmp_path, expert: str) -> None:
    options = HubOptions(cache_dir=str(tmp_path))
    live = LiveModule(load_model("me/base", [], options))
    base: Base = live_base(live, options)
    with pytest.raises(RequestError, match="this is the base"):
        open_expert("honest", expert, live, base, options)


def test_names_on_disk_of_what_an_adapter_changes() -> None:
    for make, targets in ((tiny.vit, ["q_proj"]), (tiny.llama, ["q_proj", "lm_head"]), (tiny.mixtral, ["q_proj"])):
        model = make()
        names = [name for name, _ in model.named_parameters()]
        with quiet():
            skeleton = plain_skeleton(get_peft_model(model, LoraConfig(target_modules=targets)))
        assert all(parameter.is_meta for parameter in skeleton.parameters())
        found = disk_names(skeleton, [*names, "lm_head.weight"])
        live = LiveModule(make())
        for name in names:
            assert found[name] == (live.names.plain(name) or name)
        if make is tiny.vit:
            memory = "vit.layers.0.attention.q_proj.weight"
            assert found[memory] == "vit.encoder.layer.0.attention.attention.query.weight"
        assert found["lm_head.weight"] == "lm_head.weight"
        fused = {name for name in names if "experts." in name}
        assert all(found[name] == name for name in fused)


def test_a_config_whose_values_are_of_another_kind_is_told_in_one_line(tmp_path):
    """transformers checks its configs by an error that is no ValueError."""
    tiny.llama().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "attention_bias": None}))
    with pytest.raises(SourceError, match="describes no model: Validation error for field 'attention_bias': TypeError"):
        skeleton_of(tmp_path, config, "me/x")
    with pytest.raises(SourceError, match=r"cannot be loaded as a .*: Validation error for field 'attention_bias'"):
        from_pretrained(tmp_path, "me/x")
