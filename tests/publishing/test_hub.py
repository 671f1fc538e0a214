import io
import json
import logging
import socket
import traceback

import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from hf_merge3h.cli import app
from hf_merge3h.errors import OutputError, RequestError, SourceError
from hf_merge3h.manifest import FILE, Manifest, load_manifest
from hf_merge3h.manifest.files import hash_file
from hf_merge3h.publishing import hub as hub_module
from hf_merge3h.publishing.hub import publish
from hf_merge3h.publishing.refusals import patiently
from tests.fake_hub import TOKEN, Repo, serve
from tests.hub_writes import Fault
from tests.publishing.manifests import card, content, evaluation, model

# huggingface_hub 2.4's way to send a file, to its HTTP library's dislike: theirs to mend
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
CONFLICT = [model("base", card=card("gpl-3.0")), model("honesty", card=card("llama3"))]
WRONG = "hf_" + "wrong" * 7


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


def _again(folder, **change):
    made = dict(load_manifest(folder).content)
    Manifest({**made, **change}).save(folder)


def _refused(error, *arguments, **options):
    """The one line of a refusal, in which no token is, nor in anything that led to it."""
    with pytest.raises(error) as caught:
        publish(*arguments, **options)
    whole = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in whole
    assert WRONG not in whole
    return str(caught.value)


def test_one_commit_brings_everything(hub, merge):
    found = publish(merge, "me/balanced")
    name, summary, files, pull = hub.commits[0]
    assert (len(hub.commits), name, pull) == (1, "me/balanced", False)
    assert "R-TSVM" in summary
    assert files == sorted(
        [
            ".eval_results/gsm8k.yaml", FILE, "README.md", "config.json", "recipe.yaml", "tokenizer.json",
            "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        ]
    )  # fmt: skip
    assert found.url.startswith(f"{hub.endpoint}/me/balanced/commit/")
    assert {"notes.txt~", ".secret"} <= set(found.left_out)
    there = hub.repos["me/balanced"].files
    text = there["README.md"].decode()
    assert "# balanced" in text
    assert 'from_pretrained("me/balanced"' in text
    assert yaml.safe_load(there[".eval_results/gsm8k.yaml"])[0]["dataset"]["task_id"] == "gsm8k"
    assert yaml.safe_load(there["recipe.yaml"])["base_model"].startswith("me/small@")


def test_again_sends_nothing_twice(hub, merge):
    publish(merge, "me/balanced")
    hub.asked.clear()
    publish(merge, "me/balanced")
    assert not any(line.startswith("PUT") for line in hub.asked)


def test_local_folders_stay_private(hub, merge):
    models = [
        model(role, source=f"/home/me/{role}", given=f"/home/me/{role}", commit=None) for role in ("base", "honesty")
    ]
    _again(merge, models=models, recipe={**content()["recipe"], "given": {"base_model": "/home/me/base"}})
    publish(merge, "me/balanced")
    for name, held in hub.repos["me/balanced"].files.items():
        assert b"/home/me" not in held, name
    assert load_manifest(merge).content["models"][0]["source"] == "/home/me/base"


def test_private_pull_request_and_collection(hub, merge):
    publish(merge, "us/balanced", private=True, collection="Our merges")
    assert hub.repos["us/balanced"].access == "private"
    assert list(hub.collections.values()) == [["us/balanced"]]
    hub.repos["them/model"] = Repo({"README.md": b"# Theirs\n"})
    assert publish(merge, "them/model", create_pr=True).url.endswith("/discussions/1")
    assert hub.commits[-1][3]
    assert b"# Theirs" in hub.repos["them/model"].files["README.md"]


def test_what_people_wrote_on_the_hub_stays(hub, merge):
    publish(merge, "me/balanced")
    there = hub.repos["me/balanced"].files
    there["README.md"] += b"\nWritten in the browser.\n"
    (merge / "README.md").unlink()
    publish(merge, "me/balanced")
    assert there["README.md"].endswith(b"\nWritten in the browser.\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "owner/name"),
        ({"models": CONFLICT}, "--i-have-permission"),
    ],
)
def test_nothing_is_asked_of_the_hub_before_all_is_checked(hub, merge, change, said):
    _again(merge, **change)
    assert said in _refused(RequestError, merge, "me/balanced" if change else "balanced")
    (merge / "config.json").write_text('{"a": 1}')
    assert "config.json: was changed" in _refused(RequestError, merge, "me/balanced", permission="x")
    (merge / "README.md").write_text("<!-- merge3h:use -->\n")
    (merge / "config.json").write_text("{}")
    assert "do not pair" in _refused(RequestError, merge, "me/balanced", permission="x")
    assert hub.asked == []
    assert hub.repos == {}


def test_too_large_a_file(hub, merge, monkeypatch):
    monkeypatch.setattr(hub_module, "_LARGEST", 100)
    assert "--max-shard-size" in _refused(RequestError, merge, "me/balanced")
    assert hub.asked == []


def test_no_weights(hub, tmp_path):
    made = content()
    made["output"]["hashes"] = "not recorded"
    Manifest(made).save(tmp_path)
    assert "holds no weights" in _refused(RequestError, tmp_path, "me/balanced")


def test_permission_is_shown(hub, merge):
    _again(merge, models=CONFLICT)
    publish(merge, "me/balanced", permission="Both wrote to me")
    text = hub.repos["me/balanced"].files["README.md"].decode()
    assert "Both wrote to me" in text
    assert "license:" not in text.split("---\n")[1]
    assert load_manifest(merge).content["permission"]["reason"] == "Both wrote to me"


def test_a_token_that_the_hub_does_not_know(hub, merge):
    assert "401" in _refused(SourceError, merge, "me/balanced", token=WRONG)
    assert hub.repos == {}


def test_somebody_elses_name(hub, merge):
    said = _refused(RequestError, merge, "them/balanced")
    assert "me/balanced" in said
    assert "--create-pr" in said
    assert hub.repos == {}


@pytest.mark.parametrize(
    ("request_line", "status", "error", "said"),
    [
        ("POST /api/repos/create", 403, SourceError, "the right to write"),
        ("POST .*/commit/", 403, SourceError, "the right to write"),
        ("POST .*/commit/", 409, OutputError, "409"),
        ("POST .*/commit/", 412, OutputError, "in the meantime"),
        ("POST .*/commit/", 400, OutputError, "a fault of the test"),
        ("GET /api/whoami", 500, OutputError, "a fault of its own"),
    ],
)
def test_refusals(hub, merge, request_line, status, error, said):
    hub.faults.append(Fault(request_line, status, times=9))
    assert said in _refused(error, merge, "me/balanced")
    assert hub.commits == []


def test_a_busy_hub_is_asked_again_when_it_says(hub, merge):
    waits = []
    hub.faults.append(Fault("GET /api/whoami", 429, times=2, headers=(("Retry-After", "7"),)))
    from huggingface_hub import HfApi

    assert patiently(HfApi(token=TOKEN).whoami, waits.append)["name"] == "me"
    assert waits == [7.0, 7.0]
    hub.faults.append(Fault("GET /api/whoami", 429, times=9, headers=(("Retry-After", "900"),)))
    assert "wait 900 s" in _refused(OutputError, merge, "me/balanced")


@pytest.mark.parametrize("fault", [Fault("PUT /upload/", 500, times=20), Fault("PUT /upload/", 0, times=20, after=10)])
def test_an_upload_that_breaks_half_way_goes_on(hub, merge, fault, monkeypatch):
    first = next(iter(sorted(merge.glob("*.safetensors"))))
    import hashlib

    oid = hashlib.sha256(first.read_bytes()).hexdigest()
    fault.request = f"PUT /upload/(?!{oid})"  # the first shard comes through
    hub.faults.append(fault)
    said = _refused(OutputError, merge, "me/balanced")
    assert "run the same command again" in said
    assert hub.commits == []
    assert list(hub.stored) == [oid]
    hub.faults.clear()
    hub.asked.clear()
    publish(merge, "me/balanced")
    assert len(hub.commits) == 1
    assert [line for line in hub.asked if line.startswith("PUT")] != []
    assert f"PUT /upload/{oid}" not in hub.asked


def test_no_network(hub, merge, monkeypatch):
    from huggingface_hub import constants

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert "connection failed" in _refused(OutputError, merge, "me/balanced")


def test_the_command_and_the_token(hub, merge, caplog, capfd):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    caplog.set_level(logging.DEBUG)
    try:
        done = CliRunner().invoke(app, ["publish", str(merge), "me/balanced"])
        assert done.exit_code == 0, done.output
        assert "/me/balanced/commit/" in done.output
        dry = CliRunner().invoke(app, ["publish", str(merge), "me/other", "--dry-run"])
        assert "nothing was uploaded" in dry.output
        hub.faults.append(Fault("POST .*/commit/", 400, times=9))
        failed = CliRunner().invoke(app, ["publish", str(merge), "me/third"])
        assert isinstance(failed.exception, OutputError)
    finally:
        logging.getLogger().removeHandler(handler)
    out, err = capfd.readouterr()
    written = b"".join(each.read_bytes() for each in merge.iterdir() if each.is_file())
    for text in (done.output, dry.output, str(failed.exception), caplog.text, stream.getvalue(), out, err):
        assert TOKEN not in text
    assert TOKEN.encode() not in written
    assert "me/other" not in hub.repos
    for repo in hub.repos.values():
        assert TOKEN.encode() not in json.dumps([str(each) for each in repo.files.values()]).encode()


def test_licenses_of_a_merge_on_the_hub(hub, merge, tmp_path):
    publish(merge, "me/merge")
    hub.asked.clear()
    done = CliRunner().invoke(app, ["licenses", "me/merge", "--json"])
    here = CliRunner().invoke(app, ["licenses", str(merge), "--json"])
    assert (done.exit_code, json.loads(done.output)) == (here.exit_code, json.loads(here.output))
    assert not any("safetensors" in each or "README" in each for each in hub.asked)  # the manifest alone
    hub.asked.clear()
    again = CliRunner().invoke(app, ["licenses", "me/merge", "--offline"])
    assert (again.exit_code, hub.asked) == (here.exit_code, [])
    assert again.output.startswith("me/merge: ")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("me/none", "me/none"),
        ("me/plain", "merge3h.json"),
        ("me/recipe.yaml", "recipe.yaml"),
    ],
)
def test_licenses_of_what_is_no_merge(hub, place, message):
    hub.repos["me/plain"] = Repo({"config.json": b"{}"})
    done = CliRunner().invoke(app, ["licenses", place])
    assert done.exit_code != 0
    assert isinstance(done.exception, (SourceError, RequestError))
    assert message in str(done.exception)
    assert "\n" not in str(done.exception).strip()
