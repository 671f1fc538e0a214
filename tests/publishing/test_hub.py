"""Publishing: one commit with everything, and what people wrote there stays; the command; licences of what is there."""

import io
import json
import logging

import pytest
import yaml
from typer.testing import CliRunner

from hf_merge3h.cli import app
from hf_merge3h.errors import OutputError, RequestError, SourceError
from hf_merge3h.manifest import FILE, load_manifest
from hf_merge3h.publishing.hub import publish
from tests.fake_hub import TOKEN, Repo
from tests.hub_writes import Fault
from tests.publishing.manifests import again, content, model

# huggingface_hub 2.4's way to send a file, to its HTTP library's dislike: theirs to mend
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


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
    again(merge, models=models, recipe={**content()["recipe"], "given": {"base_model": "/home/me/base"}})
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
