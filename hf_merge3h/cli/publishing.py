"""`hf-merge3h card`, `licenses`, `verify`, `inspect`, `recipe` and `publish`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SourceError
from .options import AsJson, Device

if TYPE_CHECKING:
    from ..publishing.facts import Parent
    from ..publishing.licenses import Verdict

Folder = Annotated[Path, typer.Argument(help="The folder of a merge, with its merge3h.json.", show_default=False)]


def licenses(
    place: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE_OR_DIR_OR_REPO", help="A recipe, or a merge: a folder or a Hub id.", show_default=False
        ),
    ],
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what the parents' licences add up to, before any weights are fetched. No legal advice.

    Status 0: compatible. 1: a conflict, or a licence that nothing can be concluded from: a person has to decide.
    """
    from ..manifest import FILE
    from ..publishing.licenses import judge

    path = Path(place)
    if path.is_dir() or path.name == FILE or _on_hub(place):
        from ..manifest import load_manifest
        from ..publishing.facts import facts_of
        from ..publishing.remote import local_folder

        folder = local_folder(place, (FILE,), local_files_only=offline) if _on_hub(place) else path
        if _on_hub(place) and not (folder / FILE).is_file():
            raise SourceError(f"{place}: holds no {FILE}, so nothing says what it was merged from; give a recipe")
        parents = facts_of(load_manifest(folder)).parents
    else:
        from ..publishing.sources import stated
        from ..recipes.read import read_recipe

        parents = stated(read_recipe(path), local_files_only=offline)
    verdict = judge(each for parent in parents for each in parent.licenses)
    typer.echo(json.dumps(_facts(parents, verdict), indent=2) if as_json else _text(place, parents, verdict))
    if verdict.status != "compatible":
        raise typer.Exit(1)


def _on_hub(place: str) -> bool:
    """Whether a place is a Hub id: no file that is there, and none that is spelled like a recipe."""
    from ..publishing.text import is_hub_id

    repo = place.partition("@")[0]
    return is_hub_id(repo) and not Path(place).exists() and Path(repo).suffix.lower() not in (".yaml", ".yml", ".json")


def _facts(parents: tuple[Parent, ...], verdict: Verdict) -> dict[str, object]:
    from ..publishing.licenses import NOT_ADVICE, reviewed

    return {
        "status": verdict.status,
        "license": verdict.license,
        "license_name": verdict.name,
        "license_link": verdict.link,
        "parents": [
            {"role": each.role, "source": each.source, "commit": each.commit, "licenses": list(each.licenses)}
            for each in parents
        ],
        "conflicts": [
            {"reason": each.reason, "clauses": [list(c) for c in each.clauses]} for each in verdict.conflicts
        ],
        "open_questions": list(verdict.open_questions),
        "obligations": [list(each) for each in verdict.obligations],
        "reviewed": reviewed(),
        "note": NOT_ADVICE,
    }


def _text(label: str, parents: tuple[Parent, ...], verdict: Verdict) -> str:
    from ..publishing.licenses import NOT_ADVICE, reviewed

    width = max((len(each.role) for each in parents), default=0)
    lines = [f"{label}: {len(parents)} parents"]
    lines += [f"  {each.role:<{width}}  {', '.join(each.licenses):<20}  {each.source}" for each in parents]
    if verdict.status == "compatible":
        lines.append(f"compatible; suggested licence: {verdict.name or verdict.license}")
    elif verdict.status == "conflict":
        lines.append("conflict; a person has to decide, and no licence is set:")
        for conflict in verdict.conflicts:
            lines.append(f"  - {conflict.reason}:")
            lines += [f"      {license}, {kind.replace('_', ' ')}: {text}" for license, kind, text in conflict.clauses]
    else:
        lines.append("unknown; a person has to decide, and no licence is set:")
        lines += [f"  - {each}" for each in verdict.open_questions]
    if verdict.obligations:
        lines.append("whoever passes the merge on keeps:")
        lines += [f"  {kind.replace('_', ' ')} ({license}): {text}" for kind, license, text in verdict.obligations]
    return "\n".join([*lines, f"{NOT_ADVICE} Table of {reviewed()}."])


def card(
    place: Annotated[str, typer.Argument(metavar="DIR_OR_REPO", help="A merge: a folder or a Hub id.")],
    name: Annotated[str | None, typer.Option(help="Its name, in the title and the metadata.")] = None,
    picture: Annotated[bool, typer.Option(help="Draw the pictures.")] = True,
    show: Annotated[bool, typer.Option("--print", help="Write the card to standard output, and no file.")] = False,
) -> None:
    """Write the model card of a merge from its merge3h.json; what people wrote in it stays as it is.

    The card of a Hub id is written to standard output.
    """
    from ..manifest import load_manifest
    from ..publishing.card import PICTURES, make_card, read_old, write_card
    from ..publishing.remote import local_folder

    folder = local_folder(place)
    remote = not Path(place).exists()
    if not show and not remote:
        typer.echo(write_card(folder, name=name, picture=picture))
        return
    drawn = all((folder / each).exists() for each in PICTURES)
    text = make_card(
        load_manifest(folder), name=name, place=place if remote else ".", picture=drawn, old=read_old(folder)
    )
    typer.echo(text, nl=False)


def publish(
    folder: Folder,
    repo: Annotated[str, typer.Argument(help="owner/name; it is made if it does not exist.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make it a private repository.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="As a pull request.")] = False,
    collection: Annotated[str | None, typer.Option(help="Title of a collection of yours to add it to.")] = None,
    permission: Annotated[
        str | None,
        typer.Option(
            "--i-have-permission", metavar="WHY", help="Publish in spite of a licence conflict; the card shows why."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and list only: nothing is asked or written.")
    ] = False,
) -> None:
    """Publish a merge with its card, manifest and recipe on the Hub, in one commit, once everything is checked.

    An interrupted upload goes on when the command is run again. The token is the stored one, or HF_TOKEN.
    """
    from ..publishing import hub

    if dry_run:
        hub.check(folder, repo, permission)
        found = hub.prepare(folder, repo, permission, write=False)
    else:
        found = hub.publish(
            folder, repo, private=private, create_pr=create_pr, collection=collection, permission=permission
        )
    for name in found.files:
        typer.echo(f"  {name}")
    typer.echo(f"{len(found.files)} files, {found.size:,} bytes")
    for name in found.left_out:
        typer.echo(f"left out, for it is no part of a merge: {name}")
    for note in found.notes:
        typer.echo(f"note: {note}")
    typer.echo("nothing was uploaded (--dry-run)" if dry_run else found.url)


Place = Annotated[str, typer.Argument(metavar="DIR_OR_REPO", help="A folder or a Hub id.", show_default=False)]
Fetch = Annotated[bool, typer.Option("--fetch", help="Fetch parents from the Hub, if they are not on this machine.")]


def verify(
    place: Place,
    again: Annotated[bool, typer.Option(help="Merge again, and compare tensor by tensor.")] = True,
    fetch: Fetch = False,
    tolerance: Annotated[
        float | None, typer.Option(help="Relative difference of a tensor that counts as rounding.")
    ] = None,
    device: Device = "cpu",
    scratch: Annotated[Path | None, typer.Option(help="Where the second merge goes, and is removed from.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check that a merge is what its manifest says: the hashes of its files, then the merge itself, made again.

    Status 0: it is, bit by bit or within rounding; or its hashes match, and a parent is not at hand, which is said.
    1: it is not, and what differs is named. 2: nothing could be checked.
    """
    from ..engine.verify import verify as check

    shown = not as_json and sys.stderr.isatty()
    found = check(place, again=again, fetch=fetch, tolerance=tolerance, device=device, scratch=scratch, progress=shown)
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))
    raise typer.Exit(found.exit_code)


def inspect(
    place: Place,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="BASE [EXPERT]...", help="What it may be made of; the manifest's parents if left out."),
    ] = None,
    others: Annotated[list[str] | None, typer.Argument(metavar="[EXPERT]...", help="More experts.")] = None,
    fetch: Fetch = False,
    as_json: AsJson = False,
) -> None:
    """Show what a merge is made of, block by block; also of merges that others made.

    For example: hf-merge3h inspect them/merge --against them/base them/expert1 them/expert2
    """
    from ..engine.inspect import inspect as look

    base, *experts = [*(against or ()), *(others or ())] or [None]
    found = look(
        place, base, [each for each in experts if each is not None], local_files_only=not fetch and not against
    )
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))


def recipe(
    place: Annotated[
        str,
        typer.Argument(metavar="PLACE", help="A folder, a Hub id, or a file (a card, a config).", show_default=False),
    ],
) -> None:
    """Write the recipe of a merge to standard output: ours, or mergekit's from its config or its card."""
    from ..publishing.foreign import recipe_of

    typer.echo(recipe_of(place), nl=False)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (card, licenses, verify, inspect, recipe, publish):
        app.command()(command)
