"""Records from the Hub, by the real `datasets` and a Hub on 127.0.0.1."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.fake_hub import TOKEN, Repo, serve

CARD = b"---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: main/test.jsonl\n---\n"
ROWS = b'{"question": "1 + 1?", "answer": "#### 2"}\n{"question": "2 + 2?", "answer": "#### 4"}\n'
CODE = """
import json, sys
from hf_merge3h.errors import SourceError
from hf_merge3h.evaluation.hub import from_hub
for revision in sys.argv[2:]:
    source = {"hub": sys.argv[1], "config": "main", "split": "test", "revision": revision}
    try:
        print(json.dumps(from_hub(source, "gsm8k")))
    except SourceError as error:
        print(json.dumps(str(error)))
"""


def asked(hub, home, *arguments, **settings):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **settings}
    told = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in told.stdout.splitlines() if line.startswith(("[", '"'))]


def test_a_branch_is_resolved_and_its_commit_is_what_is_loaded_and_told(tmp_path):
    repo = Repo({"README.md": CARD, "main/test.jsonl": ROWS})
    with serve({"datasets/openai/gsm8k": repo}) as hub:
        branch, commit = asked(hub, tmp_path, "openai/gsm8k", "main", repo.sha)
        assert branch == commit == [[json.loads(line) for line in ROWS.splitlines()], repo.sha]
        assert not any("/resolve/main/" in line for line in hub.asked)  # a branch may move between two requests
        offline = asked(hub, tmp_path, "openai/gsm8k", repo.sha, HF_HUB_OFFLINE="1")
        assert offline == [commit]


def test_what_cannot_be_had_is_one_line(tmp_path):
    gated = Repo({"README.md": CARD, "main/test.jsonl": ROWS}, access="gated")
    with serve({"datasets/owner/gated": gated}) as hub:
        (none,) = asked(hub, tmp_path, "openai/gsm8k", "main")
        closed, gone = asked(hub, tmp_path, "owner/gated", "main", "0" * 40)
        (let_in,) = asked(hub, tmp_path, "owner/gated", "main", HF_TOKEN=TOKEN)
    assert none.startswith("gsm8k: openai/gsm8k at main cannot be had from the Hub: ")
    assert "hf auth login" in closed
    assert "--data gsm8k=PATH" in gone
    assert let_in[1] == gated.sha
