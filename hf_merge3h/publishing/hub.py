"""Publish a merge: everything is checked, then a repository is made, then one commit brings all files.

Uploading is huggingface_hub's work. It sends each file once: after an interruption the same command goes on, for what
the Hub has already is not sent again.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import Problems, RequestError, bad
from ..manifest import FILE as MANIFEST
from ..manifest import Manifest, files, load_manifest
from . import sections
from .card import FILE as CARD
from .card import PICTURES, make_card, read_old, write_card
from .facts import Facts, facts_of
from .metadata import eval_results
from .public import public
from .recipes import recipe_yaml
from .refusals import in_one_line, patiently
from .text import is_hub_id, one_line

RECIPE = "recipe.yaml"
_SIDE = (".json", ".jinja", ".txt", ".model", ".safetensors")
_LARGEST = 50_000_000_000  # bytes of one file (https://huggingface.co/docs/hub/storage-limits)
_AGAIN = "; run the same command again: what was uploaded is not sent twice"
#: huggingface_hub's new way to upload needs a server of its own, which some networks do not let through.
_PLAIN = f"{_AGAIN}; if it keeps failing, set HF_HUB_DISABLE_XET=1 for the plain way"


@dataclass(frozen=True)
class Publication:
    """What would be, or was, published.

    Attributes:
        repo: id on the Hub.
        files: name in the repository -> a local file, or content made for it.
        left_out: files of the folder that do not belong to a merge.
        notes: what whoever publishes should know.
        url: of the commit or pull request, once there is one.
    """

    repo: str
    files: Mapping[str, Path | bytes]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    url: str = ""
    facts: Facts | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(len(each) if isinstance(each, bytes) else each.stat().st_size for each in self.files.values())


def publish(
    folder: str | os.PathLike[str],
    repo: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    collection: str | None = None,
    permission: str | None = None,
    token: str | bool | None = None,
) -> Publication:
    """Publish a merge on the Hub.

    Args:
        folder: of the merge, with its merge3h.json.
        repo: owner/name; it is made if it does not exist.
        private: make it a private one (a repository that exists stays what it is).
        create_pr: as a pull request, for repositories of others.
        collection: the title of a collection of yours that it is added to; made if there is none.
        permission: why you may publish although the licences conflict; the card shows it.
        token: of the Hub; the stored one if left out.

    Returns:
        What was published, and where.

    Raises:
        RequestError: something is wrong with the merge, the name or the rights; nothing was created or uploaded.
        OutputError: the Hub or the network failed; running it again goes on.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    folder = Path(folder)
    check(folder, repo, permission)
    api = HfApi(token=token, library_name="hf_merge3h")
    with in_one_line(repo, "asking whose token this is", token):
        owner = patiently(api.whoami)
    _may_write(owner, repo, create_pr)
    publication = prepare(folder, repo, permission, remote=_remote_card(api, repo, token))
    with in_one_line(repo, "making the repository", token, _AGAIN):
        if not create_pr:
            patiently(lambda: api.create_repo(repo, private=private or None, exist_ok=True))
    with in_one_line(repo, "uploading", token, _AGAIN if constants.HF_HUB_DISABLE_XET else _PLAIN):
        operations = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in publication.files.items()
        ]
        commit = api.create_commit(repo, operations, commit_message=_message(publication), create_pr=create_pr)
    if collection is not None:
        with in_one_line(repo, f"adding it to the collection {collection!r}", token, _AGAIN):
            made = patiently(lambda: api.create_collection(collection, namespace=owner["name"], exists_ok=True))
            patiently(lambda: api.add_collection_item(made.slug, repo, "model", exists_ok=True))
    url = str(commit.pr_url or commit.commit_url)
    return Publication(repo, publication.files, publication.left_out, publication.notes, url, publication.facts)


def check(folder: Path, repo: str, permission: str | None = None) -> Manifest:
    """Everything that can be known without the Hub: the name, the manifest, the files, the licences, the size.

    Raises:
        RequestError: lists all that is wrong.
    """
    if not is_hub_id(repo):
        raise bad("REPO", repo, "an id of the Hub: owner/name")
    manifest = load_manifest(folder)
    facts = facts_of(manifest)
    problems = Problems(f"{folder} cannot be published as {repo}")
    if not list(folder.glob("*.safetensors")):
        problems.add(f"{folder}: holds no weights (*.safetensors)")
    for finding in files.compare(folder, facts.hashes):
        problems.add(f"{finding}; merge again, or see `hf-merge3h verify`")
    for path in _belonging(folder)[0].values():
        if path.stat().st_size > _LARGEST:
            problems.add(f"{path.name}: {path.stat().st_size:,} bytes; merge with --max-shard-size 5GB")
    if facts.verdict.status == "conflict" and not (permission or "").strip():
        problems.add(
            "the parents' licences conflict: " + "; ".join(map(str, facts.verdict.conflicts)) + "; if you have the "
            'permission of their holders, say so: --i-have-permission "why", which the card then shows'
        )
    sections.merge(read_old(folder), {}, {})  # markers that do not pair are told now
    problems.raise_any()
    return manifest


def prepare(
    folder: Path, repo: str, permission: str | None = None, remote: str = "", *, write: bool = True
) -> Publication:
    """Write the card for its place on the Hub, and list what is uploaded.

    Args:
        folder: of the merge.
        repo: its id.
        permission: see `publish`.
        remote: the card that lies there; what people wrote in it is kept, unless the local card has handwriting.
        write: False: leave the folder as it is, only list.
    """
    manifest = load_manifest(folder)
    if permission and permission.strip():
        said = {"reason": one_line(permission), "date": datetime.date.today().isoformat()}
        manifest = Manifest({**manifest.content, "permission": said})
        if write:
            manifest.save(folder)
    manifest = public(manifest)
    facts = facts_of(manifest)
    old = read_old(folder)
    if remote and not sections.handwritten(old).strip(" \n-"):
        old = remote
    name = repo.partition("/")[2]
    if write:
        write_card(folder, manifest=manifest, name=name, place=repo, old=old)
    found, left_out = _belonging(folder)
    contents: dict[str, Path | bytes] = dict(found)
    if not write:
        contents[CARD] = make_card(manifest, name=name, place=repo, old=old).encode()
    contents[MANIFEST] = manifest.text().encode()
    contents[RECIPE] = recipe_yaml(facts).encode()
    for name, entries in eval_results(facts).items():
        contents[f".eval_results/{name}"] = yaml.safe_dump(entries, sort_keys=False).encode()
    notes = []
    local = sorted({each.name for each in facts.parents if each.hub_id is None})
    if local:
        notes.append(f"not on the Hub, so nobody else can repeat the merge: {', '.join(local)}")
    if facts.verdict.status == "unknown":
        notes.append("no licence is set: " + "; ".join(facts.verdict.open_questions))
    if facts.evaluation is None:
        notes.append("nothing was evaluated; the card says so")
    return Publication(repo, dict(sorted(contents.items())), left_out, tuple(notes), facts=facts)


def _belonging(folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Files of the folder that belong to a merge, and the names of those that do not."""
    found, others = {}, []
    for path in sorted(folder.iterdir()):
        ours = path.name in (CARD, *PICTURES) or path.suffix in _SIDE or path.name.startswith("LICENSE")
        if not path.is_file() or path.is_symlink() or path.name.startswith(".") or not ours:
            others.append(path.name)
        elif path.name != MANIFEST:
            found[path.name] = path
    return found, tuple(others)


def _may_write(owner: Mapping[str, Any], repo: str, create_pr: bool) -> None:
    name = repo.partition("/")[0]
    known = {owner.get("name"), *(each.get("name") for each in owner.get("orgs") or ())}
    if not create_pr and name not in known:
        raise RequestError(
            f"REPO={repo!r}: your token is of {owner.get('name')!r}, who is not in {name!r}; publish as "
            f"{owner.get('name')}/{repo.partition('/')[2]}, or propose it with --create-pr"
        )


def _remote_card(api: Any, repo: str, token: Any) -> str:
    """The card that lies in the repository; empty where there is none."""
    with in_one_line(repo, "reading its card", token):
        if not patiently(lambda: api.file_exists(repo, CARD)):
            return ""
        path = patiently(lambda: api.hf_hub_download(repo, CARD, force_download=True))
        return Path(path).read_text(encoding="utf-8")


def _message(publication: Publication) -> str:
    assert publication.facts is not None
    return f"{publication.facts.title()}, merged with hf_merge3h"
