"""The other half of the fake Hub: what huggingface_hub asks when it makes repositories, uploads and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from tests.fake_hub import FakeHub, _Handler

ME = "me"


@dataclass
class Fault:
    """What goes wrong: the next `times` requests that match get this status; 0 cuts the connection.

    `after`: cut only when so many bytes of the body were read.
    """

    request: str
    status: int
    times: int = 1
    headers: tuple[tuple[str, str], ...] = ()
    after: int = 0


def trouble(handler: _Handler) -> bool:
    """Let the next fault happen, if it is this request's turn."""
    line = f"{handler.command} {unquote(urlsplit(handler.path).path)}"
    for fault in handler.hub.faults:
        if fault.times > 0 and re.search(fault.request, line):
            fault.times -= 1
            if fault.status:
                handler.body()
                handler.send(fault.status, dict(fault.headers), b'{"error": "a fault of the test"}')
            else:
                handler.rfile.read(fault.after)
                handler.connection.shutdown(socket.SHUT_RDWR)
                handler.close_connection = True
            return True
    return False


def write(handler: _Handler, token: bool) -> None:
    """Answer a POST or PUT."""
    hub, path = handler.hub, unquote(urlsplit(handler.path).path)
    body = handler.body()
    if path.startswith("/upload/"):
        oid = path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        hub.stored[oid] = body
        handler.send(200)
    elif path == "/api/validate-yaml":
        handler.send(200, content=b'{"errors": [], "warnings": []}')
    elif not token:
        handler.send(401, content=b'{"error": "Invalid credentials in Authorization header"}')
    elif path == "/api/repos/create":
        _create(handler, hub, json.loads(body))
    elif path == "/api/collections":
        _collect(handler, hub, json.loads(body))
    elif found := re.fullmatch(r"/api/collections/(.+)/items", path):
        hub.collections[found.group(1)].append(json.loads(body)["item"]["id"])
        handler.send(200, content=_collection(found.group(1), hub))
    elif found := re.fullmatch(r"/api/(?:models|spaces)/([^/]+/[^/]+)/preupload/.*", path):
        _modes(handler, hub, found.group(1), json.loads(body))
    elif found := re.fullmatch(r"/(?:spaces/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
        _batch(handler, hub, json.loads(body))
    elif found := re.fullmatch(r"/api/(?:models|spaces)/([^/]+/[^/]+)/commit/.*", path):
        _commit(handler, hub, found.group(1), body)
    else:
        handler.send(404)


def _create(handler: _Handler, hub: FakeHub, asked: dict[str, Any]) -> None:
    from tests.fake_hub import Repo

    name = f"{asked.get('organization') or ME}/{asked['name']}"
    if name in hub.repos:
        handler.send(409, content=json.dumps({"error": "exists", "url": f"{hub.endpoint}/{name}"}).encode())
        return
    hub.repos[name] = Repo({}, "private" if asked.get("visibility") == "private" or asked.get("private") else "open")
    handler.send(200, content=json.dumps({"url": f"{hub.endpoint}/{name}"}).encode())


def _modes(handler: _Handler, hub: FakeHub, name: str, asked: dict[str, Any]) -> None:
    if name not in hub.repos:
        handler.send(404, {"X-Error-Code": "RepoNotFound"})
        return
    files = [
        {
            "path": each["path"],
            "uploadMode": "lfs" if each["path"].endswith((".safetensors", ".png")) else "regular",
            "shouldIgnore": False,
        }
        for each in asked["files"]
    ]
    handler.send(200, content=json.dumps({"files": files}).encode())


def _batch(handler: _Handler, hub: FakeHub, asked: dict[str, Any]) -> None:
    objects = []
    for each in asked["objects"]:
        there = each["oid"] in hub.stored
        actions = None if there else {"upload": {"href": f"{hub.endpoint}/upload/{each['oid']}"}}
        objects.append({**each, **({"actions": actions} if actions else {})})
    handler.send(200, content=json.dumps({"transfer": "basic", "objects": objects}).encode())


def _commit(handler: _Handler, hub: FakeHub, name: str, body: bytes) -> None:
    lines = [json.loads(line) for line in body.splitlines()]
    files: dict[str, bytes] = {}
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.stored[value["oid"]]
    pull = parse_qs(urlsplit(handler.path).query).get("create_pr")
    hub.commits.append((name, lines[0]["value"]["summary"], sorted(files), bool(pull)))
    if not pull:
        hub.repos[name].files.update(files)
    answer = {
        "success": True,
        "commitOid": hub.repos[name].sha,
        "commitUrl": f"{hub.endpoint}/{name}/commit/{hub.repos[name].sha}",
        "pullRequestUrl": f"{hub.endpoint}/{name}/discussions/1" if pull else None,
    }
    handler.send(200, content=json.dumps(answer).encode())


def _collect(handler: _Handler, hub: FakeHub, asked: dict[str, Any]) -> None:
    slug = f"{asked['namespace']}/{asked['title'].lower().replace(' ', '-')}-0123456789abcdef01234567"
    hub.collections.setdefault(slug, [])
    handler.send(200, content=_collection(slug, hub))


def _collection(slug: str, hub: FakeHub) -> bytes:
    return json.dumps(
        {
            "slug": slug, "title": slug, "owner": {"name": ME}, "description": None, "private": False, "theme": "blue",
            "position": 0, "upvotes": 0, "lastUpdated": "2026-11-24T00:00:00.000Z", "gating": False,
            "items": [
                {"_id": str(place), "id": each, "type": "model", "position": place}
                for place, each in enumerate(hub.collections[slug])
            ],
        }
    ).encode()  # fmt: skip
