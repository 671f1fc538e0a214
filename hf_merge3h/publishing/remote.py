"""From a folder or a Hub id to a folder that holds a merge's small files: manifest, card, config."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import SourceError, show
from ..manifest import FILE as MANIFEST
from .refusals import in_one_line, patiently
from .text import is_hub_id

#: What is fetched where weights are not needed.
SMALL = (MANIFEST, "README.md", "config.json", "adapter_config.json", "*.png")


def local_folder(
    place: str | os.PathLike[str], patterns: tuple[str, ...] = SMALL, *, local_files_only: bool = False
) -> Path:
    """The folder of a merge; of one on the Hub, what the patterns name is fetched.

    Args:
        place: a folder, `owner/name`, or `owner/name@revision`.
        patterns: of file names.
        local_files_only: take what was fetched before, and ask no Hub.

    Raises:
        SourceError: no such folder, no such repository, or it cannot be reached.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        return path
    repo, _, revision = str(place).partition("@")
    if not is_hub_id(repo) or path.exists():
        raise SourceError(
            f"{show(str(place))}: no such folder, and no Hub id: expected owner/name or owner/name@revision"
        )
    from huggingface_hub import snapshot_download

    with in_one_line(repo, "reading it", None):
        return Path(
            patiently(
                lambda: snapshot_download(
                    repo, revision=revision or None, allow_patterns=list(patterns), local_files_only=local_files_only
                )
            )
        )
