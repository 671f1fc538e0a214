"""A Hub on 127.0.0.1, as far as huggingface_hub asks it: revisions, trees, files, refusals; `hub_writes` the rest."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import pytest

from tests.hub_writes import ME, Fault, trouble, write

TOKEN = "hf_" + "right" * 7


@dataclass
class Repo:
    """One repository: its files, and who may read them. A data set's name begins with `datasets/`.

    `access`: open; gated (metadata for all, files with TOKEN); private (all with TOKEN); forbidden; broken.
    """

    files: dict[str, bytes]
    access: str = "open"
    revisions: tuple[str, ...] = ("main",)

    @property
    def sha(self) -> str:
        digest = hashlib.sha1()
        for name, content in sorted(self.files.items()):  # each fed as it is: files may have many megabytes
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()


@dataclass
class FakeHub:
    """Running server: where it is, what it holds, what was asked of it."""

    endpoint: str
    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)  # uploaded, by SHA-256
    commits: list[tuple[str, str, list[str], bool]] = field(default_factory=list)
    collections: dict[str, list[str]] = field(default_factory=dict)

    def fetched(self) -> list[str]:
        """Names of the files whose contents were sent."""
        return [line.rpartition("/")[2] for line in self.asked if line.startswith("GET") and "/resolve/" in line]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_POST(self) -> None:
        self._write()

    def do_PUT(self) -> None:
        self._write()

    def body(self) -> bytes:
        """What was sent."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _write(self) -> None:
        self.hub.asked.append(f"{self.command} {unquote(urlsplit(self.path).path)}")
        if not trouble(self):
            write(self, self.headers.get("Authorization") == f"Bearer {TOKEN}")

    def log_message(self, *_: object) -> None:
        """Silence."""

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        part = self.headers.get("Range")
        self.hub.asked.append(f"{self.command} {path}" + (f" {part}" if part else ""))
        if trouble(self):
            return
        if path == "/api/whoami-v2":
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            self.send(200 if known else 401, content=_json({"name": ME, "type": "user", "orgs": [{"name": "us"}]}))
            return
        parts = path.strip("/").split("/")
        api = parts[0] == "api" and parts[1] in ("models", "datasets")
        kind = "datasets/" if "datasets" in parts[:2] else ""
        parts = parts[2:] if api else parts[1:] if kind else parts
        name, parts = kind + "/".join(parts[:2]), parts[2:]
        repo = self.hub.repos.get(name)
        token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.access == "private" and not token):
            # The real Hub tells those who are not logged in no more than this, either.
            self.send(404 if token else 401, {"X-Error-Code": "RepoNotFound"})
        elif repo.access == "broken":
            self.send(500)
        elif repo.access == "forbidden":
            self.send(403, {"X-Error-Message": "this token may not read it"})
        elif repo.access == "gated" and not token and not api:
            self.send(403, {"X-Error-Code": "GatedRepo"})
        elif parts[1:] and parts[1] not in (*repo.revisions, repo.sha):
            self.send(404, {"X-Error-Code": "RevisionNotFound"})
        elif api and (not parts or parts[0] == "revision"):
            siblings = [{"rfilename": file, "size": len(content)} for file, content in repo.files.items()]
            told = {"id": name, "sha": repo.sha, "siblings": siblings, "gated": repo.access == "gated" and "auto"}
            self.send(200, content=_json(told), body=body)
        elif api and parts[0] == "tree":
            self.send(200, content=_json(tree(repo, "/".join(parts[2:]))), body=body)
        elif "/".join(parts[2:]) not in repo.files:
            self.send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.sha})
        else:
            content = repo.files["/".join(parts[2:])]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            headers = {"X-Repo-Commit": repo.sha, "ETag": etag}
            if part := self.headers.get("Range"):
                first, last = part.removeprefix("bytes=").split("-")
                end = min(int(last or len(content)), len(content) - 1)
                headers["Content-Range"] = f"bytes {first}-{end}/{len(content)}"
                content = content[int(first) : end + 1]
            self.send(206 if part else 200, headers, content, body)

    def send(self, status: int, headers: dict[str, str] | None = None, content: bytes = b"", body: bool = True) -> None:
        """One whole answer."""
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


def tree(repo: Repo, folder: str = "") -> list[dict[str, object]]:
    """What lies under a folder, all the way down; the folders come too."""
    start = f"{folder}/" if folder else ""
    files = {name: content for name, content in repo.files.items() if name.startswith(start)}
    inner = {
        str(parent) for name in files for parent in PurePosixPath(name).parents if str(parent) not in (".", folder)
    }
    return [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(inner)] + [
        {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for name, content in files.items()
    ]


def _json(content: object) -> bytes:
    return json.dumps(content).encode()


@contextmanager
def serve(repos: dict[str, Repo] | None = None) -> Iterator[FakeHub]:
    """A running Hub, for as long as the block lasts."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.hub = FakeHub(f"http://127.0.0.1:{server.server_address[1]}", dict(repos or {}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield handler.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def point(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Have huggingface_hub ask this endpoint; HF_ENDPOINT itself is read when it is imported."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    disable_progress_bars()
