"""A merge's model card: a function of its manifest, written into README.md without touching what people wrote there."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2

from ..errors import OutputError, SourceError
from ..manifest import Manifest, load_manifest
from . import licenses, sections, tables
from .facts import H_NAMES, Facts, Parent, facts_of, regressions
from .metadata import metadata, problems
from .public import public
from .recipes import recipe_yaml
from .snippets import snippet
from .text import NOT_RECORDED, Markdown, code, escape, fence, fixed, kind_name, link, listed, number, one_line, percent

FILE = "README.md"
#: The pictures of a card, for light and dark pages.
PICTURES = ("merge3h-light.png", "merge3h-dark.png")
ORDER = (
    "summary", "use", "results", "recipe", "provenance", "diagnostics", "licence", "limitations", "citations",
)  # fmt: skip
_LIMIT = 10_000_000  # bytes of a README


def make_card(
    manifest: Manifest, *, name: str | None = None, place: str = ".", picture: bool = False, old: str = ""
) -> str:
    """The text of a merge's card.

    Args:
        manifest: of the merge.
        name: of the model; None for one made of its method and roles.
        place: what `from_pretrained` is given in the snippet: a Hub id, or the folder.
        picture: whether the pictures lie beside the card.
        old: the card as it is, with what people wrote.

    Raises:
        SourceError: the manifest cannot be told, or the markers of the old card do not pair.
    """
    facts = facts_of(public(manifest))
    name = one_line(name, 96) if name else facts.title()
    data = metadata(facts, name)
    wrong = problems(data)
    if wrong:
        raise SourceError("the card's metadata would be refused by the Hub: " + "; ".join(wrong))
    try:
        values = _values(facts, name, place, picture)
        written = {each: _environment().get_template(f"{each}.md.jinja").render(values) for each in ORDER}
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, jinja2.UndefinedError) as problem:
        raise SourceError(f"merge3h.json: has not the shape that a card needs: {one_line(problem)}") from None
    return sections.merge(old, data, {each: _tidy(text) for each, text in written.items()})


def write_card(
    folder: str | os.PathLike[str],
    *,
    manifest: Manifest | None = None,
    name: str | None = None,
    place: str = ".",
    picture: bool = True,
    old: str | None = None,
) -> Path:
    """Write README.md, and the pictures where there are figures, beside a merge's manifest.

    Args:
        folder: holds merge3h.json.
        manifest: of the merge; read from the folder if left out.
        name, place: see `make_card`.
        picture: draw the pictures; those that lie there are shown either way.
        old: the text whose handwriting is kept, in place of what README.md holds now.

    Raises:
        SourceError: no manifest, or one that cannot be told; a README whose markers do not pair, which stays.
        OutputError: the folder cannot be written to.
    """
    folder = Path(folder)
    manifest = load_manifest(folder) if manifest is None else manifest
    before = read_old(folder) if old is None else old
    try:
        if picture and facts_of(manifest).diagnostics:
            from .picture import draw_pair

            draw_pair(manifest, folder)
        shown = all((folder / each).is_file() for each in PICTURES)
        text = make_card(manifest, name=name, place=place, picture=shown, old=before)
        path, aside = folder / FILE, folder / f".{FILE}.new"
        aside.write_bytes(text.encode())
        os.replace(aside, path)
    except OSError as problem:
        if isinstance(problem, SourceError):
            raise
        raise OutputError(f"{folder}: the card cannot be written: {problem.strerror or problem}") from None
    return path


def read_old(folder: Path) -> str:
    """The card that lies in a folder; empty where there is none."""
    path = folder / FILE
    try:
        if not path.is_file():
            return ""
        if path.stat().st_size > _LIMIT:
            raise SourceError(f"{path}: {path.stat().st_size:,} bytes are no card")
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as problem:
        raise SourceError(f"{path}: is no UTF-8 text (byte {problem.start})") from None


def _values(facts: Facts, name: str, place: str, picture: bool) -> dict[str, Any]:
    """What the templates print."""
    evaluation = facts.evaluation
    local = [each for each in facts.parents if each.hub_id is None]
    datasets = (evaluation or {}).get("datasets", ())
    measured = {str(each["h"]) for each in datasets}
    return {
        "facts": facts,
        "name": name,
        "kind": "adapter" if facts.is_adapter else "model",
        "base": facts.base,
        "experts": _experts(facts),
        "method": facts.method,
        "copied": facts.copied,
        "evaluation": evaluation,
        "worse": list(regressions(evaluation)) if evaluation else [],
        "comparisons": sum(len(each["paired"]) for each in evaluation["datasets"]) if evaluation else 0,
        "fewest": min((each["n"] for each in datasets), default=0),
        "values": tables.values(evaluation) if evaluation else "",
        "differences": tables.differences(evaluation) if evaluation else "",
        "compared": tables.experts(evaluation) if evaluation else "",
        "left_out": tables.left_out(evaluation) if evaluation else "",
        "missing": listed([each for each in H_NAMES if each not in measured]),
        "snippet": snippet(facts, place),
        "recipe": fence(recipe_yaml(facts), "yaml"),
        "repeatable": facts.content.get("made_by") != "live" and not local,
        "local": _local(local),
        "versions": Markdown(", ".join(f"{escape(k)} {escape(v)}" for k, v in facts.content["versions"].items())),
        "parameters": tables.parameters(facts),
        "parents": tables.parents(facts),
        "picture": PICTURES if picture else None,
        "parties": tables.diagnostics(facts),
        "verdict": facts.verdict,
        "obligations": tables.obligations(facts),
        "permission": facts.permission,
        "not_advice": licenses.NOT_ADVICE,
        "reviewed": licenses.reviewed(),
        "survived": min((party["total"]["survived"] for party in facts.diagnostics), default=None),
        "by_chance": _by_chance(facts),
        "hashed": _hashed(facts),
        "cited": [each for each in facts.parents if not each.carrier],
    }


def _experts(facts: Facts) -> Markdown:
    roles = [f"the {escape(role)} expert" if role in H_NAMES else escape(facts.called(role)) for role in facts.roles]
    return Markdown(listed(roles) or "its parents")


def _hashed(facts: Facts) -> Markdown:
    """What the manifest has hashes of."""
    known = [each.hashes for each in facts.parents]
    experts = all(each.hashes for each in facts.experts)
    whose = "the parents' weights" if all(known) else "some parents' weights" if any(known) else ""
    if facts.base is not None and experts and any(known) and not facts.base.hashes:
        whose = "the experts' weights"
    return Markdown(listed([each for each in (whose, "this merge's files" if facts.hashes else "") if each]))


def _by_chance(facts: Facts) -> Markdown:
    """The sign conflict of as many experts as there are whose signs are thrown like coins."""
    counts = sorted({len(party["roles"]) for party in facts.diagnostics if len(party["roles"]) > 1})
    return Markdown(listed([percent(1 - 0.5 ** (count - 1)) for count in counts]) or "none")


def _local(parents: list[Parent]) -> Markdown:
    """The start of a sentence about parents that are not on the Hub."""
    names = list(dict.fromkeys(code(each.name) for each in parents))
    return Markdown(f"{listed(names)} {'is' if len(names) == 1 else 'are'}" if names else "")


def paper(text: Any) -> Markdown:
    """A link to a paper, as the registry spells papers."""
    scheme, _, identifier = str(text).partition(":")
    pages = {"arxiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
    target = pages[scheme.lower()] + identifier.strip() if scheme.lower() in pages else str(text)
    return link(text, target)


def _place(parent: Parent) -> Markdown:
    return tables.place(parent)


def _papers(parent: Parent) -> Iterator[str]:
    """Papers that a parent's own card names by the Hub's tags."""
    for tag in (parent.card or {}).get("tags") or ():
        found = re.fullmatch(r"arxiv:(\d{4}\.\d{4,5})", str(tag))
        if found:
            yield f"arXiv:{found.group(1)}"


@functools.cache
def _environment() -> jinja2.Environment:
    """Templates whose every value is escaped, unless it is Markdown of ours."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or "hf_merge3h.publishing"),
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, (Markdown, jinja2.Undefined)) else escape(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        code=code,
        number=number,
        fixed=fixed,
        percent=percent,
        paper=paper,
        place=_place,
        hub=lambda name: link(name, f"https://huggingface.co/{name}"),
        dataset=tables.dataset_name,
        change=tables.change,
        figure=tables.figure_name,
        papers=_papers,
        capitalize_first=lambda text: str(text)[:1].upper() + str(text)[1:],
        words=kind_name,
        plain=lambda text: Markdown(re.sub(r"[^0-9A-Za-z.+!-]", "", str(text))),
    )
    return environment


def _tidy(text: str) -> str:
    """No more than one empty line at a time, outside of code."""
    parts = re.split(r"(^(`{3,}).*?^\2$)", text, flags=re.M | re.S)
    # split gives: text, block, its fence, text, ...
    kept = [re.sub(r"\n{3,}", "\n\n", part) if number % 3 == 0 else part for number, part in enumerate(parts)]
    return "".join(part for number, part in enumerate(kept) if number % 3 != 2).strip()


def card_text(content: Mapping[str, Any], **options: Any) -> str:
    """The card of a manifest's content, without any folder: what `model.merge_report.card()` gives."""
    return make_card(Manifest(content), **options)


__all__ = ["FILE", "NOT_RECORDED", "PICTURES", "card_text", "make_card", "read_old", "write_card"]
