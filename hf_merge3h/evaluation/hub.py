"""Records from the Hub through `datasets`, of a commit that can be named afterwards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import SourceError, show

_COMMIT = re.compile(r"(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])")


def from_hub(source: Mapping[str, Any], where: str) -> tuple[list[dict[str, Any]], str | None]:
    """Records of a data set's split, and the commit that they are of (a branch's name where none can be told).

    A branch is resolved to its commit first, and the commit is what is loaded: what is recorded is what was used.

    Raises:
        SourceError: they cannot be had; says what to do.
    """
    try:
        import datasets
    except ImportError:
        raise SourceError(f"{where}: needs the library datasets; pip install 'hf-merge3h[eval]'") from None
    repo, revision = str(source["hub"]), source.get("revision")
    commit = _commit(repo, revision)
    try:
        loaded = datasets.load_dataset(
            repo, source.get("config"), split=str(source["split"]), revision=commit or revision
        )
    except Exception as error:  # datasets raises what its many back ends raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        at = f" at {revision}" if revision else ""
        raise SourceError(
            f"{where}: {repo}{at} cannot be had from the Hub: {show(said)}; check the network and its terms of "
            f"access (hf auth login), or give a local copy: --data {where}=PATH"
        ) from None
    return [dict(record) for record in loaded], commit or _cached(loaded) or revision


def _commit(repo: str, revision: str | None) -> str | None:
    """The commit that a revision is at present; None where the Hub cannot be asked."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    try:
        return HfApi(library_name="hf_merge3h").dataset_info(repo, revision=revision, timeout=30).sha
    except Exception:  # offline, or no access: loading says what is wrong, or finds it in the cache
        return None


def _cached(loaded: Any) -> str | None:
    """The commit in the name of the folder that `datasets` keeps the records in."""
    for file in loaded.cache_files:
        found = _COMMIT.findall(str(file.get("filename")))
        if found:
            return str(found[-1])
    return None
