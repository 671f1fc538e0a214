"""Models on the Hub whose weights are not downloaded before it is known that they are wanted."""

import json
import logging
import logging.handlers

import pytest
import torch
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from safetensors.torch import save

from hf_merge3h import merge_recipe
from hf_merge3h.engine.forecast import plan_facts, plan_text
from hf_merge3h.engine.recipes import plan_recipe
from hf_merge3h.errors import RequestError, SourceError
from hf_merge3h.models.hub import resolve
from hf_merge3h.models.sources import open_source
from hf_merge3h.models.types import HubOptions
from hf_merge3h.models.weights.headers import check_places, read_places
from hf_merge3h.recipes.read import read_recipe
from tests.fake_hub import Repo, point, serve

CONFIG = json.dumps({"model_type": "toy"}).encode()


def tensors(seed, rows=4):
    generator = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(rows, 3, generator=generator), "b": torch.randn(5, generator=generator).bfloat16()}


def whole(seed, **options):
    return {"config.json": CONFIG, "model.safetensors": save(tensors(seed, **options))}


def sharded(seed):
    files = {f"model-{name}.safetensors": save({name: tensor}) for name, tensor in tensors(seed).items()}
    index = json.dumps({"weight_map": {name: f"model-{name}.safetensors" for name in ("a", "b")}}).encode()
    return {"config.json": CONFIG, "model.safetensors.index.json": index, **files}


BROKEN = {
    "cut": whole(1)["model.safetensors"][:30],
    "pickle": b"\x80\x02}q\x00." * 40,
    "lies": whole(1)["model.safetensors"].replace(b"[4,3]", b"[9,3]"),
    "empty": b"",
}


@pytest.fixture
def hub(monkeypatch):
    repos = {
        "me/base": Repo(whole(0)),
        "me/one": Repo(sharded(1)),
        "me/wider": Repo(whole(2, rows=6)),
        "me/holes": Repo({name: content for name, content in sharded(1).items() if name != "model-b.safetensors"}),
        "me/nothing": Repo({"config.json": CONFIG}),
        "me/truncated": Repo({"config.json": CONFIG, "model.safetensors": whole(1)["model.safetensors"][:-4]}),
        "me/gated": Repo(whole(3), "gated"),
        **{f"me/{name}": Repo({"config.json": CONFIG, "model.safetensors": text}) for name, text in BROKEN.items()},
    }
    with serve(repos) as running:
        point(monkeypatch, running.endpoint)
        yield running


def options(place):
    return HubOptions(cache_dir=str(place))


def recipe(*models, base="me/base"):
    return read_recipe(
        {"merge_method": "task_arithmetic", "base_model": base, "models": [{"model": each} for each in models]}
    )


def downloaded(hub):
    """Weights that were sent whole."""
    return sorted(name for name in hub.fetched() if name.endswith(".safetensors"))


def test_headers_are_asked_and_files_fetched_when_a_tensor_is_wanted(hub, tmp_path):
    model = open_source("me/one", (), "one", options(tmp_path))
    assert downloaded(hub) == []
    assert model.specs["b"].dtype is torch.bfloat16
    path, start, end = model.checkpoint.place("a")
    assert not path.exists()
    assert model.checkpoint.bytes_absent == sum(map(len, list(sharded(1).values())[2:]))
    assert torch.equal(model.load("a"), tensors(1)["a"])
    assert downloaded(hub) == ["model-a.safetensors"]
    assert read_places(path, "one")["a"].start == start
    assert path.read_bytes()[start:end] == tensors(1)["a"].numpy().tobytes()
    model.checkpoint.fetch()
    assert downloaded(hub) == ["model-a.safetensors", "model-b.safetensors"]
    assert model.checkpoint.bytes_absent == 0
    hub.asked.clear()
    again = open_source("me/one", (), "one", options(tmp_path))
    assert torch.equal(again.load("b"), tensors(1)["b"])
    assert not any("safetensors" in line for line in hub.asked if "index" not in line)


def test_a_plan_downloads_no_weights_and_its_merge_gives_the_bytes_of_local_models(hub, tmp_path):
    plan = plan_recipe(recipe("me/one"), hub=options(tmp_path / "cache"))
    assert downloaded(hub) == []
    facts = plan_facts(plan)
    assert facts["bytes_downloaded"] == sum(
        len(content) for name in ("me/base", "me/one") for file, content in hub.repos[name].files.items()
        if file.endswith(".safetensors")
    )  # fmt: skip
    assert "from the Hub first" in plan_text(plan)
    merge_recipe(plan, tmp_path / "out")
    assert downloaded(hub) == ["model-a.safetensors", "model-b.safetensors", "model.safetensors"]
    for name in ("base", "one"):
        (tmp_path / name).mkdir()
        for file, content in hub.repos[f"me/{name}"].files.items():
            (tmp_path / name / file).write_bytes(content)
    local = plan_recipe(recipe(str(tmp_path / "one"), base=str(tmp_path / "base")))
    assert plan_facts(local)["bytes_downloaded"] == 0
    assert "from the Hub" not in plan_text(local)
    merge_recipe(local, tmp_path / "local")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "local/model.safetensors").read_bytes()


def test_only_weights_come_with_a_bar_and_nothing_with_a_warning(hub, tmp_path, capsys):
    heard = logging.handlers.BufferingHandler(1000)
    logger = logging.getLogger("huggingface_hub")
    hub.repos["me/bare"] = Repo({"notes.txt": b"", "deep/model.safetensors": b""})
    logger.addHandler(heard)
    enable_progress_bars()
    try:
        plan = plan_recipe(recipe("me/one"), hub=options(tmp_path / "cache"))
        with pytest.raises(RequestError, match="holds no weights itself"):
            plan_recipe(recipe("me/bare"), hub=options(tmp_path / "cache"))
        assert capsys.readouterr().err == ""
        plan.models[0].checkpoint.fetch()
        assert "Fetching 2 files" in capsys.readouterr().err
        assert plan_facts(plan_recipe(recipe("me/one"), hub=options(tmp_path / "cache")))["tensors"] == 2
        assert capsys.readouterr().err == ""
    finally:
        disable_progress_bars()
        logger.removeHandler(heard)
    assert heard.buffer == []


def test_of_weights_in_a_folder_of_a_repository_a_recipe_is_told_how_to_have_them(hub, tmp_path):
    hub.repos["me/nested"] = Repo({f"deep/er/{name}": content for name, content in whole(1).items()})
    with pytest.raises(RequestError) as caught:
        plan_recipe(recipe("me/nested@main"), hub=options(tmp_path))
    assert str(caught.value).endswith(
        "below it: download it (hf download me/nested --revision main --include 'deep/er/*' --local-dir FOLDER) "
        "and name FOLDER/deep/er"
    )
    with pytest.raises(SourceError, match=r"give subfolder='deep/er'$"):
        resolve("me/nested", cache_dir=tmp_path)


def test_models_that_do_not_fit_are_refused_before_any_weights_are_downloaded(hub, tmp_path):
    with pytest.raises(RequestError, match=r"\[4, 3\]|\[6, 3\]"):
        plan_recipe(recipe("me/one", "me/wider"), hub=options(tmp_path))
    assert downloaded(hub) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *((name, "no whole safetensors file") for name in BROKEN),
        ("holes", "model-b.safetensors"), ("nothing", "holds no weights"), ("gated", "accept its licence"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_before_anything_is_downloaded(hub, tmp_path, name, said):
    with pytest.raises(SourceError, match=said) as caught:
        plan_recipe(recipe("me/one", f"me/{name}"), hub=options(tmp_path))
    assert f"me/{name}" in str(caught.value)
    assert downloaded(hub) == []


def test_a_file_that_is_not_what_the_hub_described_is_refused(hub, tmp_path):
    model = open_source("me/one", (), "one", options(tmp_path))
    path = model.found.folder / "model-a.safetensors"
    path.write_bytes(save({"a": torch.zeros(2, 6)}))
    with pytest.raises(SourceError, match="not what the Hub described"):
        model.load("a")


def test_a_truncated_file_is_refused_before_anything_is_merged(hub, tmp_path):
    """Its header is whole, so that it was uploaded so is seen when it is here."""
    plan = plan_recipe(recipe("me/truncated"), hub=options(tmp_path / "cache"))
    with pytest.raises(SourceError, match="no whole safetensors file"):
        merge_recipe(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_offline_a_model_that_is_not_here_is_refused(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    open_source("me/base", (), "base", options(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="me/base"):
        open_source("me/base", (), "base", options(tmp_path))


def test_places_fill_their_file():
    entries = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    assert check_places(entries, 20, 28, "x")["a"].end == 28
    with pytest.raises(SourceError, match="x is no whole safetensors file: its header promises 8 bytes"):
        check_places(entries, 20, 30, "x")
