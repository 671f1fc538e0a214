"""What publishing refuses, and a Hub that refuses, is slow or breaks: one line, with no token in it."""

import socket
import traceback

import pytest

from hf_merge3h.errors import OutputError, RequestError, SourceError
from hf_merge3h.manifest import Manifest, load_manifest
from hf_merge3h.publishing import hub as hub_module
from hf_merge3h.publishing.hub import publish
from hf_merge3h.publishing.refusals import patiently
from tests.fake_hub import TOKEN
from tests.hub_writes import Fault
from tests.publishing.manifests import again, card, content, model

# huggingface_hub 2.4's way to send a file, to its HTTP library's dislike: theirs to mend
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


CONFLICT = [model("base", card=card("gpl-3.0")), model("honesty", card=card("llama3"))]


WRONG = "hf_" + "wrong" * 7


def _refused(error, *arguments, **options):
    """The one line of a refusal, in which no token is, nor in anything that led to it."""
    with pytest.raises(error) as caught:
        publish(*arguments, **options)
    whole = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in whole
    assert WRONG not in whole
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "owner/name"),
        ({"models": CONFLICT}, "--i-have-permission"),
    ],
)
def test_nothing_is_asked_of_the_hub_before_all_is_checked(hub, merge, change, said):
    again(merge, **change)
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
    again(merge, models=CONFLICT)
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
