import json
import os
import socket
import subprocess
import sys
import traceback

import pytest
import torch
from safetensors.torch import save

from hf_merge3h.errors import RequestError, SourceError
from hf_merge3h.models.hub import resolve
from hf_merge3h.models.origin import card_of
from hf_merge3h.models.types import HubOptions
from tests.fake_hub import TOKEN, Repo, point, serve

CONFIG = json.dumps({"model_type": "llama"}).encode()
TENSORS = save({"weight": torch.ones(2)})
WHOLE = {
    "config.json": CONFIG,
    "model.safetensors": TENSORS,
    "model.fp16.safetensors": TENSORS,
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"import os",
    "README.md": b"# A model",
}
SHARDED = {
    "config.json": CONFIG,
    "model.safetensors.index.json": json.dumps({"weight_map": {"a": "model-1.safetensors"}}).encode(),
    "model-1.safetensors": TENSORS,
    "model-2.safetensors": TENSORS,
}
ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": TENSORS, "training_args.bin": b"pickle"}


@pytest.fixture(scope="module")
def hub():
    repos = {
        "me/whole": Repo(WHOLE, revisions=("main", "v2")),
        "me/sharded": Repo(SHARDED),
        "me/adapter": Repo(ADAPTER),
        "me/both": Repo({**WHOLE, **ADAPTER}),
        "me/nested": Repo({f"deep/er/{name}": content for name, content in ADAPTER.items()}),
        "me/gated": Repo(WHOLE, "gated"),
        "me/private": Repo(WHOLE, "private"),
        "me/forbidden": Repo(WHOLE, "forbidden"),
        "me/broken": Repo(WHOLE, "broken"),
        "me/pickle": Repo({"config.json": CONFIG, "pytorch_model.bin": b"pickle"}),
        "me/gguf": Repo({"model-q4.gguf": b"gguf"}),
        "me/empty": Repo({"README.md": b"# Nothing"}),
        "me/evil": Repo(
            {**SHARDED, "model.safetensors.index.json": json.dumps({"weight_map": {"a": "../../x"}}).encode()}
        ),
        "me/holes": Repo({key: value for key, value in SHARDED.items() if key != "model-1.safetensors"}),
    }
    with serve(repos) as running:
        yield running


@pytest.fixture(autouse=True)
def _client(hub, monkeypatch):
    """The real client, pointed at the fake Hub; HF_ENDPOINT itself is read when huggingface_hub is imported."""
    point(monkeypatch, hub.endpoint)
    hub.asked.clear()


def _refused(source, error=SourceError, **options):
    """The one line of a refusal."""
    with pytest.raises(error) as caught:
        resolve(source, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    return text


def test_downloads_a_model_and_nothing_else(hub, tmp_path):
    found = resolve("me/whole", cache_dir=tmp_path)
    assert (found.kind, found.commit, found.repo) == ("weights", hub.repos["me/whole"].sha, "me/whole")
    wanted = ["README.md", "config.json", "model.safetensors"]
    assert sorted(each.name for each in found.folder.iterdir()) == wanted
    assert sorted(hub.fetched()) == wanted


def test_downloads_the_shards_that_the_index_names(hub, tmp_path):
    found = resolve("me/sharded", cache_dir=tmp_path)
    assert sorted(hub.fetched()) == ["config.json", "model-1.safetensors", "model.safetensors.index.json"]
    assert found.kind == "weights"


def test_downloads_an_adapter(hub, tmp_path):
    assert resolve("me/adapter", cache_dir=tmp_path).kind == "adapter"
    assert sorted(hub.fetched()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_kind_decides_where_both_are_there(tmp_path):
    assert resolve("me/both", cache_dir=tmp_path).kind == "adapter"
    found = resolve("me/both", cache_dir=tmp_path, kind="weights")
    assert found.kind == "weights"
    assert (found.folder / "model.safetensors").is_file()
    assert "expected an adapter" in _refused("me/whole", cache_dir=tmp_path, kind="adapter")


def test_cards(hub, tmp_path):
    card = b"---\nlicense: mit\n---\n"
    hub.repos["me/card"] = Repo({**WHOLE, "README.md": card})
    hub.repos["me/deep"] = Repo({"README.md": card, **{f"a/b/{name}": each for name, each in ADAPTER.items()}})
    for source, below in (("me/card", None), ("me/deep", "a/b")):
        known, found = card_of(resolve(source, cache_dir=tmp_path, subfolder=below), HubOptions(cache_dir=tmp_path))
        assert (known, found["license"]) == (True, "mit")
    assert card_of(resolve("me/whole", cache_dir=tmp_path), HubOptions(cache_dir=tmp_path)) == (True, None)
    bare = resolve("me/adapter", cache_dir=tmp_path)
    assert card_of(bare, HubOptions(cache_dir=tmp_path)) == (True, None)
    options = HubOptions(cache_dir=tmp_path / "other", local_files_only=True)
    assert card_of(bare, options) == (False, None)


def test_subfolder(tmp_path):
    found = resolve("me/nested", cache_dir=tmp_path, subfolder="deep/er")
    assert (found.folder / "adapter_model.safetensors").read_bytes() == TENSORS
    assert found.folder.name == "er"


def test_weights_that_lie_below_are_told(tmp_path):
    hint = "there are weights in 'deep/er' below it: give subfolder='deep/er'"
    assert f"holds no weights itself; {hint}" in _refused("me/nested", cache_dir=tmp_path)
    text = _refused("me/nested", cache_dir=tmp_path, subfolder="deeper")
    assert "source='me/nested (subfolder deeper)': no such folder there" in text
    (tmp_path / "local" / "honest").mkdir(parents=True)
    (tmp_path / "local" / "honest" / "adapter_config.json").write_text("{}")
    assert f"below it: give '{tmp_path}/local/honest'" in _refused(tmp_path / "local")


def test_a_relative_path_says_where_it_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _refused("./none").endswith(f"no such folder in {tmp_path}")
    assert f"no such folder in {tmp_path}, and no Hub id" in _refused("a/b/c", RequestError)
    assert _refused("/none/at/all").endswith("no such folder")


@pytest.mark.parametrize("subfolder", ["../up", "/root", "a/../..", "a\\b"])
def test_subfolder_stays_inside(tmp_path, subfolder):
    _refused("me/nested", RequestError, cache_dir=tmp_path, subfolder=subfolder)


def test_revision(hub, tmp_path):
    sha = hub.repos["me/whole"].sha
    for source, revision in [
        ("me/whole@v2", None),
        ("me/whole", "v2"),
        ("me/whole@v2", "v2"),
        (f"me/whole@{sha}", None),
    ]:
        assert resolve(source, revision=revision, cache_dir=tmp_path).commit == sha
    assert "give one" in _refused("me/whole@v2", RequestError, revision="main", cache_dir=tmp_path)
    assert "no revision 'v3'" in _refused("me/whole@v3", cache_dir=tmp_path)
    assert "no revision" in _refused(f"me/whole@{'0' * 40}", cache_dir=tmp_path)
    assert "branch, tag or commit" in _refused("me/whole@", RequestError, cache_dir=tmp_path)


def test_no_such_model(tmp_path):
    for token in (None, TOKEN, "hf_" + "wrong" * 7):
        assert "no such model" in _refused("me/nothing", cache_dir=tmp_path, token=token)


def test_gated(tmp_path):
    for token in (None, "hf_" + "wrong" * 7):
        text = _refused("me/gated", cache_dir=tmp_path, token=token)
        assert "gated" in text
        assert "https://huggingface.co/me/gated" in text
    assert resolve("me/gated", cache_dir=tmp_path, token=TOKEN).kind == "weights"


def test_private_and_forbidden(tmp_path):
    assert "private" in _refused("me/private", cache_dir=tmp_path)
    assert resolve("me/private", cache_dir=tmp_path, token=TOKEN).kind == "weights"
    assert "403" in _refused("me/forbidden", cache_dir=tmp_path, token=TOKEN)


def test_broken_hub(tmp_path):
    assert "500" in _refused("me/broken", cache_dir=tmp_path)


def test_no_network(hub, tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        resolve("me/whole", cache_dir=tmp_path)
        point(monkeypatch, endpoint)
        assert resolve("me/whole", cache_dir=tmp_path).kind == "weights"  # from the cache
        text = _refused("me/adapter", cache_dir=tmp_path, token=TOKEN)
        assert endpoint in text
        assert "cannot be reached" in text


def test_local_files_only(hub, tmp_path):
    assert "local_files_only=True" in _refused("me/whole", cache_dir=tmp_path, local_files_only=True)
    first = resolve("me/whole", cache_dir=tmp_path)
    hub.asked.clear()
    assert resolve("me/whole", cache_dir=tmp_path, local_files_only=True) == first
    assert hub.asked == []


def test_offline(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in _refused("me/whole", cache_dir=tmp_path)


def test_repositories_without_weights_to_read(tmp_path):
    assert "from_pretrained(f, use_safetensors=False)" in _refused("me/pickle", cache_dir=tmp_path)
    assert "GGUF" in _refused("me/gguf", cache_dir=tmp_path)
    assert "holds no weights" in _refused("me/empty", cache_dir=tmp_path)
    assert "outside of its folder" in _refused("me/evil", cache_dir=tmp_path)
    assert "model-1.safetensors" in _refused("me/holes", cache_dir=tmp_path)


@pytest.mark.parametrize(
    "source",
    ["a" * 10_000, "a/b/c", "../up", "a..b/c", "<b>me</b>/x", "me/x y", "me//x", "me/x\n", "\0", "~nobody/x",
     "/no/such", "C:\\x", "é/x", "me/", "x" * 97, "https://huggingface.co/me/whole"],
)  # fmt: skip
def test_what_is_no_id(tmp_path, source, hub):
    _refused(source, cache_dir=tmp_path)
    assert hub.asked == []


@pytest.mark.parametrize("source", ["", " ", 7, None, b"me/whole"])
def test_what_is_no_source(source):
    _refused(source, RequestError)


def test_a_folder_goes_before_an_id(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "me" / "whole"
    folder.mkdir(parents=True)
    assert "holds neither a model" in _refused("me/whole")
    (folder / "model.safetensors").write_bytes(TENSORS)
    found = resolve("me/whole")
    assert (found.kind, found.commit, found.repo) == ("weights", None, None)
    (folder / "adapter_config.json").write_text("{}")
    assert resolve(folder).kind == "adapter"
    assert resolve(folder, kind="weights").kind == "weights"
    assert resolve(tmp_path / "me", subfolder="whole").folder == tmp_path / "me" / "whole"
    assert "is a file" in _refused(folder / "model.safetensors")
    assert "no such folder" in _refused(tmp_path / "none")
    assert "cannot be read" in _refused(tmp_path, subfolder="none")
    assert hub.asked == []


def test_hf_endpoint_and_token_of_the_environment(hub, tmp_path):
    code = "import sys; from hf_merge3h.models.hub import resolve; print(resolve('me/private').folder)"
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(str(tmp_path))
