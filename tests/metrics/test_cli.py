"""`hf-merge3h metrics`: listing, showing, and uploading to a Hub on 127.0.0.1."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hf_merge3h import cli
from hf_merge3h.metrics import get, list_metrics
from tests.fake_hub import TOKEN, serve


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["metrics", *arguments])
    shown = capsys.readouterr()
    return ended.value.code or 0, shown.out, shown.err


def test_all_on_one_line_each(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [metric.name for metric in list_metrics()]


def test_one_whole(capsys):
    code, out, _ = run(capsys, "show", "code_pass_at_k")
    assert code == 0
    for word in [*get("code_pass_at_k").returns, *get("code_pass_at_k").options]:
        assert f"  {word}: " in out
    assert "better when lower" in out


def test_as_json(capsys):
    _, listed, _ = run(capsys, "--json")
    _, shown, _ = run(capsys, "show", "three_h", "--json")
    assert json.loads(shown) in json.loads(listed)


def test_an_unknown_one(capsys):
    code, _, err = run(capsys, "show", "refusal")
    assert code == 2
    assert "did you mean 'refusal_rate'" in err


def push(hub, tmp_path, *arguments: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    import os

    settings = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": token, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "hf_merge3h.cli", "metrics", "push", *arguments]
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=120)


def test_a_metric_becomes_a_space(tmp_path):
    with serve() as hub:
        done = push(hub, tmp_path, "refusal_rate", "me/refusals", "--private")
        assert done.returncode == 0, done.stderr
        assert hub.endpoint in done.stdout
        repo = hub.repos["me/refusals"]
        assert repo.access == "private"
        assert set(repo.files) == {"README.md", "app.py", "refusal_rate.py", "requirements.txt", "tests.py"}
        assert repo.files["README.md"].startswith(b'---\ntitle: "Refusal rate"\n')
        assert "POST /api/spaces/me/refusals/commit/main" in hub.asked
        assert push(hub, tmp_path, "refusal_rate", "me/refusals").returncode == 0  # once more: nothing to change


def test_what_cannot_be_pushed(tmp_path):
    with serve() as hub:
        wrong = push(hub, tmp_path, "refusal_rate", "me/refusals", token="hf_" + "wrong" * 7)
        assert wrong.returncode == 2
        assert "401" in wrong.stderr
        assert "wrongwrong" not in wrong.stderr
        assert push(hub, tmp_path, "refusal_rate", "refusals").returncode == 2
        assert push(hub, tmp_path, "no_metric", "me/refusals").returncode == 2
        assert not hub.repos
