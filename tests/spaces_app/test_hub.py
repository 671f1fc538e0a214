"""What the Space reads of the Hub, and how it publishes there: against a Hub of our own, with the real client."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path

import actions
import machines
import places
import pytest
from editing import RefusedError

from tests.fake_hub import TOKEN, Repo
from tests.publishing.conftest import hub  # noqa: F401 - a fixture
from tests.spaces_app.common import recipe

# huggingface_hub 2.4's way to send a file, to its HTTP library's dislike: theirs to mend
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

LLAMA = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode()
REMOTE = json.dumps({"auto_map": {"AutoModel": "evil.Model"}}).encode()


class Large(bytes):
    """A file that is listed with the size of a model of 70 billion parameters."""

    def __len__(self) -> int:
        return 141_000_000_000


@pytest.mark.parametrize(
    ("repo", "says", "remedy"),
    [
        (Repo({"pytorch_model.bin": b"x", "config.json": LLAMA}), "holds only pytorch_model.bin", "pickles can run"),
        (Repo({"config.json": LLAMA}), "holds no weights", "safe_serialization"),
        (Repo({"model.safetensors": b"x", "config.json": REMOTE}), "program code of its own", "never run here"),
        (Repo({"model.safetensors": b"x" * 2000, "config.json": LLAMA}), "2 kB of weights", "a machine of your own"),
        (Repo({"model.safetensors": Large(b"x"), "config.json": LLAMA}), "141 GB of weights", "a machine of your own"),
        (Repo({"model.safetensors": b"x", "config.json": b"{"}), "config.json cannot be read", "save the model again"),
        (Repo({"model.safetensors": b"x", "config.json": LLAMA}, "gated"), "gated", "open models only"),
        (Repo({"model.safetensors": b"x", "config.json": LLAMA}, "private"), "no such open model", "spelling"),
        (None, "no such open model", "spelling"),
        (Repo({"model.safetensors": b"x", "config.json": LLAMA}, "broken"), "the Hub did not answer", "try again"),
    ],
    ids=["pickles", "empty", "remote code", "too large", "70B", "no config", "gated", "private", "none", "broken"],
)
def test_models_that_are_not_read(hub, monkeypatch, repo, says, remedy):  # noqa: F811
    monkeypatch.setattr(places, "MOST_BYTES", 1000)
    if repo is not None:
        hub.repos["me/model"] = repo
    checked = machines.plan_merge(recipe("me/model", "shipped:helpful"))
    assert not checked["ok"]
    (problem,) = [each for each in checked["problems"] if "me/model" in each["text"]]
    assert says in problem["text"]
    assert remedy in problem["remedy"]
    assert not any("safetensors" in line or ".bin" in line for line in hub.asked)  # no weights were fetched


def test_publishing_takes_the_token_of_whoever_logged_in(hub, made, monkeypatch):  # noqa: F811
    monkeypatch.delenv("HF_TOKEN")
    found = actions.publish(made, "me/balanced", True, TOKEN)
    assert found.url.startswith(f"{hub.endpoint}/me/balanced/commit/")
    there = hub.repos["me/balanced"]
    assert there.access == "private"
    assert {"README.md", "merge3h.json", "recipe.yaml"} <= set(there.files)
    for content in there.files.values():
        assert TOKEN.encode() not in content
        assert str(made.folder).encode() not in content
    with pytest.raises(RefusedError, match="401") as refused:
        actions.publish(made, "me/other", True, "hf_" + "wrong" * 7)
    assert "wrong" not in str(refused.value)
    with pytest.raises(RefusedError, match="who is not in 'them'"):
        actions.publish(made, "them/model", False, TOKEN)


def test_the_button_publishes_for_whoever_pressed_it(hub, made, visit, monkeypatch):  # noqa: F811
    """With a Space's OAuth there is a login; what it gives reaches the library, and nothing the page."""
    import gradio as gr
    import hub_events

    seen = {}

    class Button:
        def click(self, function, inputs, *_, **__):
            seen["press"], seen["inputs"] = function, inputs

    page = types.SimpleNamespace(publish=Button(), chooser="chooser", repo="repo", private="private", published="out")
    hub_events.publish_events(page)
    assert TOKEN not in str(seen["inputs"])
    monkeypatch.setattr(hub_events, "visit_of", lambda request: visit)
    visit.merges.append(made)
    profile = gr.OAuthProfile({"name": "Me", "preferred_username": "me", "profile": "", "picture": ""})
    token = gr.OAuthToken(TOKEN, "write-repos", 0)
    said = seen["press"](None, "pressed", False, None, profile, token)
    assert "✓ Published" in said
    assert "me/pressed" in hub.repos
    assert TOKEN not in said
    assert "nobody is logged in" in seen["press"](None, "pressed", False, None, None, None)
    visit.merges.clear()


def test_models_are_planned_and_merged_one_at_a_time(monkeypatch, tmp_path):
    """peft replaces parts of torch for the whole process while it reads adapters: nothing else may be built then."""
    import preflight
    import tensors

    import hf_merge3h

    held = []
    for name in ("plan_recipe", "merge_recipe"):
        monkeypatch.setattr(hf_merge3h, name, lambda *_, **__: held.append(places.BUILDING._is_owned()))
    preflight._plan({"merge_method": "ties", "base_model": "a", "models": [{"model": "b"}, {"model": "c"}]}, ())
    tensors.merge({}, str(tmp_path), None, 1.0)
    assert held == [True, True]


def _tensors_with(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "spaces", module)
    place = Path(actions.__file__).with_name("tensors.py")
    spec = importlib.util.spec_from_file_location("tensors_again", place)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_tensor_work_alone_borrows_a_gpu_where_there_is_a_lender(monkeypatch):
    lent = []

    def lend(duration):
        def wrap(function):
            lent.append((function.__name__, duration))
            return function

        return wrap

    _tensors_with(monkeypatch, types.SimpleNamespace(GPU=lend))
    ((name, duration),) = lent
    assert name == "merge"
    assert [duration({}, "out", None, seconds) for seconds in (0.1, 10, 1e6)] == [20, 55, 300]
    assert _tensors_with(monkeypatch, None).spaces is None  # None in sys.modules: not installed
