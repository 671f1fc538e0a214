"""Upload a metric's folder as a Space, so that others can try it in a browser. Uploading is huggingface_hub's work."""

from __future__ import annotations

from pathlib import Path

from ..errors import bad
from ..publishing.refusals import in_one_line
from ..publishing.text import is_hub_id
from .records import metric_path

_FILES = ["*.py", "README.md", "requirements.txt"]


def push(name: str, repo: str, *, private: bool = False, token: str | bool | None = None) -> str:
    """Upload a metric as a Gradio Space; its files there are replaced.

    Args:
        name: of the metric.
        repo: owner/name of the Space; it is made if it does not exist.
        private: make it a private one (a Space that exists stays what it is).
        token: of the Hub; the stored one if left out.

    Returns:
        The address of the commit.

    Raises:
        RequestError: there is no such metric, the name is no Space's, or the token may not do it.
        OutputError: the Hub or the network failed; running it again goes on.
    """
    from huggingface_hub import HfApi

    folder = Path(metric_path(name))
    if not is_hub_id(repo):
        raise bad("repo", repo, "owner/name")
    api = HfApi(token=token, library_name="hf_merge3h")
    with in_one_line(repo, "making the Space", token):
        api.create_repo(repo, repo_type="space", space_sdk="gradio", private=private or None, exist_ok=True)
    with in_one_line(repo, "uploading", token, "; run the same command again"):
        done = api.upload_folder(
            repo_id=repo,
            repo_type="space",
            folder_path=folder,
            allow_patterns=_FILES,
            commit_message=f"{name}, as of hf_merge3h's",
        )
    return str(done.commit_url)
