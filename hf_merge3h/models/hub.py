"""From what a user names (a folder, a Hub id) to a folder on this machine, with errors of one line each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

from ..errors import RequestError, SourceError, bad, show, wrong
from .cards import FILE as MODEL_CARD
from .place import Where, one_line, snapshot
from .remote import Remote, remote_of
from .types import HubOptions
from .weights.headers import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    INDEX,
    WEIGHTS,
    by_subfolder,
    folders_with_weights,
    read_index,
    weight_folders,
    why_no_weights,
)

Kind = Literal["weights", "adapter"]

#: Small files that say what a repository holds. Never .bin, never .py.
_CARDS = ("config.json", "generation_config.json", ADAPTER_CONFIG, INDEX, MODEL_CARD)


@dataclass(frozen=True)
class ResolvedSource:
    """Where a source lies on this machine.

    Attributes:
        kind: whole weights, or a PEFT adapter.
        folder: holds the files.
        commit: the Hub's commit, 40 hex digits; None for a local folder.
        given: what the user wrote.
        repo: the Hub id; None for a local folder.
        remote: of whole weights that were not downloaded, the files on the Hub.
    """

    kind: Kind
    folder: Path
    commit: str | None
    given: str
    repo: str | None = None
    remote: Remote | None = None


def resolve(
    source: str | os.PathLike[str],
    *,
    token: str | bool | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    kind: Kind | None = None,
    headers_only: bool = False,
) -> ResolvedSource:
    """Find a source, downloading what is needed of it and nothing else.

    Args:
        source: a folder (which goes before a Hub id of the same spelling), or `owner/name`, or `owner/name@revision`.
        token, revision, subfolder, cache_dir, local_files_only: as everywhere in huggingface_hub. A local folder has
            no revision.
        kind: what it must be; None takes an adapter where there is an adapter_config.json, else whole weights.
        headers_only: do not download whole weights: `remote` says where they lie. Offline that cannot be told.

    Raises:
        SourceError: it does not exist, is not accessible, cannot be reached, or holds nothing of use.
        RequestError: what was given is neither a path nor an id.
    """
    given = _text(source)
    below = _subfolder(subfolder)
    path = _existing(given)
    if path is not None:
        return ResolvedSource(_local_kind(path, below, kind), path / below, None, given)
    if isinstance(source, os.PathLike) or given.startswith(("/", "~", ".", "\\")) or PureWindowsPath(given).drive:
        raise wrong("source", given, f"no such folder{_from_where(given)}", SourceError)
    repo, revision = _split(given, revision)
    options = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    where = Where(repo, revision, below, options)
    with one_line(where):
        return _download(where, given, kind, headers_only)


def describe(source: str, hub: HubOptions) -> ResolvedSource:
    """Where a model's config lies; of a model on the Hub, only its small files are fetched, and no weights.

    Raises:
        SourceError: it does not exist, is not accessible, or has no config.json.
    """
    given = _text(source)
    path = _existing(given)
    if path is not None:
        found = ResolvedSource("weights", path, None, given)
    else:
        repo, revision = _split(given, None)
        options = {"token": hub.token, "cache_dir": hub.cache_dir, "local_files_only": hub.local_files_only}
        where = Where(repo, revision, "", options)
        with one_line(where):
            folder = snapshot(where, revision, _CARDS)
        found = ResolvedSource("weights", folder, folder.name, given, repo)
    if not (found.folder / "config.json").is_file():
        raise wrong("source", given, "has no config.json, which tells the model's structure", SourceError)
    return found


def _text(source: object) -> str:
    if not isinstance(source, (str, os.PathLike)):
        raise bad("source", type(source).__name__, "a folder or a Hub id (owner/name or owner/name@revision)")
    text = os.fspath(source)
    if not isinstance(text, str) or not text.strip():
        raise bad("source", text, "a folder or a Hub id (owner/name or owner/name@revision)")
    return text


def _subfolder(subfolder: str | None) -> str:
    parts = PurePosixPath(subfolder or "").parts
    if ".." in parts or parts[:1] == ("/",) or "\\" in (subfolder or "") or "\0" in (subfolder or ""):
        raise bad("subfolder", subfolder, "a folder inside of the source")
    return "/".join(parts)


def _existing(text: str) -> Path | None:
    try:
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, no such user
        return None


def _from_where(text: str) -> str:
    """Where a relative path starts, as a user with a recipe in another folder may not expect."""
    return "" if text.startswith("~") or Path(text).is_absolute() else f" in {Path.cwd()}"


def _local_kind(path: Path, below: str, kind: Kind | None) -> Kind:
    folder = path / below
    if folder.is_file():
        raise wrong("source", str(path), "is a file; give the folder that holds it", SourceError)
    try:
        names = [each.name for each in folder.iterdir()]
    except OSError as problem:
        reason = f"cannot be read: {problem.strerror or 'no such folder'}"
        raise wrong("source", str(folder), reason, SourceError) from None
    try:
        return _kind(names, kind, str(folder))
    except SourceError as problem:
        below = folders_with_weights((each.relative_to(folder).as_posix() for each in folder.glob("*/*")), str(folder))
        raise wrong(problem.argument, problem.value, f"{problem.reason}{below}", SourceError) from None


def _kind(names: list[str], kind: Kind | None, where: str) -> Kind:
    """What a folder holds, by the names of its files."""
    adapter = ADAPTER_CONFIG in names
    weights = any(name.endswith((".safetensors", ".bin", ".pt", ".pth", ".gguf")) for name in names)
    if kind == "adapter" and not adapter:
        raise wrong("source", where, f"expected an adapter, and there is no {ADAPTER_CONFIG}", SourceError)
    if not adapter and not weights and INDEX not in names:
        reason = (
            f"holds neither a model ({WEIGHTS}, or {INDEX} and its shards) nor an adapter "
            f"({ADAPTER_CONFIG}, {ADAPTER_WEIGHTS})"
        )
        raise wrong("source", where, reason, SourceError)
    return kind or ("adapter" if adapter else "weights")


def _split(given: str, revision: str | None) -> tuple[str, str | None]:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    repo, at, pinned = given.partition("@")
    if at and revision is not None and revision != pinned:
        raise bad("revision", revision, f"nothing but {show(pinned)}, which source={show(given)} names", "give one")
    try:
        validate_repo_id(repo)
    except HFValidationError:
        reason = f"no such folder{_from_where(repo)}, and no Hub id: expected owner/name or owner/name@revision"
        raise wrong("source", given, reason, SourceError) from None
    revision = pinned if at else revision
    if revision is not None and (not revision.strip() or len(revision) > 255 or ".." in revision or "\0" in revision):
        raise bad("revision", revision, "a branch, tag or commit")
    return repo, revision


def _download(where: Where, given: str, kind: Kind | None, headers_only: bool) -> ResolvedSource:
    from huggingface_hub import is_offline_mode

    root = snapshot(where, where.revision, _CARDS)
    folder, commit = root / where.subfolder, root.name
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    if kind == "adapter" and not is_adapter:
        raise wrong("source", given, f"expected an adapter, and there is no {ADAPTER_CONFIG}", SourceError)
    found: Kind = kind or ("adapter" if is_adapter else "weights")
    if found == "adapter":
        wanted: list[str] = [ADAPTER_WEIGHTS]
    else:
        # Only what the index names: a repository often holds the same weights in other formats and precisions too.
        index = folder / INDEX
        shards = read_index(index, show(given)) if index.is_file() else {WEIGHTS: None}
        wanted = list(shards)
        here = all((folder / name).is_file() for name in wanted)
        if headers_only and not here and not where.options["local_files_only"] and not is_offline_mode():
            remote = remote_of(where, commit, folder, shards)
            if len(remote.sizes) < len(wanted):
                raise _missing(where, commit, [name for name in wanted if name not in remote.sizes], found)
            return ResolvedSource(found, folder, commit, given, where.repo, remote)
    # The commit, not the branch: the second step must see what the first one saw.
    snapshot(where, commit, (*_CARDS, *wanted), bar=not all((folder / name).is_file() for name in wanted))
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise _missing(where, commit, missing, found)
    return ResolvedSource(found, folder, commit, given, where.repo)


def extra_files(found: ResolvedSource, names: Sequence[str], hub: HubOptions) -> tuple[Path, ...]:
    """Those of these files that a source has, fetched from the Hub (at the commit that was resolved) where it lies."""
    if found.repo is not None:
        options = {"token": hub.token, "cache_dir": hub.cache_dir, "local_files_only": hub.local_files_only}
        where = Where(found.repo, found.commit, "", options)
        with one_line(where):
            snapshot(where, found.commit, tuple(names))
    return tuple(found.folder / name for name in names if (found.folder / name).is_file())


def _missing(where: Where, commit: str, missing: list[str], kind: Kind) -> RequestError:
    """The error for a repository without the files wanted, from the names of all its files where they can be had."""
    from huggingface_hub import HfApi

    names: list[str] = []
    if not where.options["local_files_only"]:
        files = HfApi(token=where.options["token"]).list_repo_files(where.repo, revision=commit)
        start = f"{where.subfolder}/" if where.subfolder else ""
        names = [name[len(start) :] for name in files if name.startswith(start)]
        if not names and start:
            return _refused(where, f"no such folder there{folders_with_weights(files)}", files)
    if kind == "adapter":
        return where.refused(f"an adapter without {ADAPTER_WEIGHTS}; its author must save it again")
    if missing == [WEIGHTS]:
        return _refused(where, why_no_weights(where.repo, names), names)
    return where.refused(f"not whole, its index names files that are missing: {', '.join(missing[:5])}")


def _refused(where: Where, reason: str, names: Iterable[str]) -> RequestError:
    """The error, with what to do about weights in a folder of a repository where no `subfolder` can be given."""
    error = where.refused(reason)
    for below in weight_folders(names)[:1]:
        at = f" --revision {where.revision}" if where.revision else ""
        load = f"hf download {where.repo}{at} --include {below + '/*'!r} --local-dir FOLDER"
        error.in_recipe = (f"give {by_subfolder(below)}", f"download it ({load}) and name FOLDER/{below}")
    return error
