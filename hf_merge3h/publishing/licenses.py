"""What the parents' licences ask of a merge: a reviewed table of facts, and how facts add up. Not legal advice.

Licences form a set, and a verdict is a function of the set, so the order and grouping of parents cannot matter. Adding
a licence never mends a conflict (every reason for one looks at a subset) and never answers what is unknown.
"""

from __future__ import annotations

import functools
import importlib.resources
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

Status = Literal["compatible", "unknown", "conflict"]

#: Of a parent that states no licence, and of one of which nobody noted what it states.
NONE, NOT_RECORDED = "none", "not recorded"
#: Where a card explains several licences that apply side by side.
LINK = "#licence"
NOT_ADVICE = (
    "This compares the parents' stated licences with a table of facts. It is not legal advice; the licences' own texts "
    "decide."
)
#: Terms that a share-alike or copyleft text lets nobody add, unless its entry says that it does.
_BINDING = ("non_commercial", "use_restrictions", "naming", "output_limits", "scale_limit")
_FURTHER = (*_BINDING, "patent_termination")
_SAME = ("share_alike", "copyleft")


@dataclass(frozen=True)
class License:
    """One licence, as `licenses.yaml` describes it.

    Attributes:
        id: canonical identifier.
        title, link: of its text.
        obligations: kind -> what the text says and where.
        outcomes: under which licences adaptations may be passed on; empty where the text does not say.
        admits: kinds of terms that may be added to it.
        model_terms: written for one family of models.
        open_question: why nothing follows from the identifier alone; empty where it does.
        hub: what the Hub's `license` field takes for it: its identifier, or "other".
    """

    id: str
    title: str
    link: str
    obligations: Mapping[str, str]
    outcomes: tuple[str, ...] = ()
    admits: tuple[str, ...] = ()
    model_terms: bool = False
    open_question: str = ""
    hub: str = ""


@dataclass(frozen=True)
class Conflict:
    """Clauses that cannot all be kept: (licence, kind, text) of each, and why."""

    clauses: tuple[tuple[str, str, str], ...]
    reason: str

    def __str__(self) -> str:
        named = "; ".join(f"{license} ({text})" for license, _, text in self.clauses)
        return f"{self.reason}: {named}"


@dataclass(frozen=True)
class Verdict:
    """What the licences of all parents add up to.

    Attributes:
        licenses: canonical identifiers, sorted.
        status: compatible; conflict (clauses that exclude each other); unknown (a licence that tells nothing).
        license: what the card's `license` field gets: an identifier of the Hub, "other", or None (conflict, unknown).
        name, link: of the licence where `license` is "other".
        conflicts, open_questions: what a person has to look at.
        obligations: (kind, licence, text) of everything that whoever passes the merge on has to keep.
    """

    licenses: tuple[str, ...]
    status: Status
    license: str | None
    name: str | None
    link: str | None
    conflicts: tuple[Conflict, ...]
    open_questions: tuple[str, ...]
    obligations: tuple[tuple[str, str, str], ...]

    def __or__(self, other: Verdict) -> Verdict:
        """The verdict of both sets of parents together."""
        return judge((*self.licenses, *other.licenses))


@functools.cache
def table() -> Mapping[str, License]:
    """All licences by identifier."""
    return {
        key: License(
            id=key,
            title=entry["title"],
            link=entry["link"],
            obligations=entry["obligations"],
            outcomes=tuple(entry.get("outcomes", ())),
            admits=tuple(entry.get("admits", ())),
            model_terms=entry.get("model_terms", False),
            open_question=entry.get("open_question", ""),
            hub=entry.get("hub", key),
        )
        for key, entry in _data()["licenses"].items()
    }


def reviewed() -> str:
    """The day on which the table was last compared with the texts."""
    return str(_data()["reviewed"])


@functools.cache
def _data() -> dict[str, Any]:
    text = importlib.resources.files(__package__).joinpath("licenses.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


@functools.cache
def _names() -> Mapping[str, str]:
    found = {key: key for key in table()}
    for key, entry in _data()["licenses"].items():
        found.update({_plain(name): key for name in entry.get("names", ())})
    return found


def _plain(text: str) -> str:
    return "-".join(str(text).strip().lower().replace("_", "-").split())


def canonical(card: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The identifiers of the licences that a source's card states; ("none",) where it states none.

    A name that the table does not know stays as it is and counts as unknown.

    >>> canonical({"license": "Apache-2.0"}), canonical({"license": "other", "license_name": "Qwen"}), canonical(None)
    (('apache-2.0',), ('qwen',), ('none',))
    """
    stated = (card or {}).get("license")
    listed = stated if isinstance(stated, (list, tuple)) else [stated]
    found = [_canonical(each, (card or {}).get("license_name")) for each in listed if each]
    return tuple(dict.fromkeys(found)) or (NONE,)


def _canonical(stated: Any, name: Any) -> str:
    known = _names().get(_plain(stated))
    if known == "other" and name:
        return _names().get(_plain(name), f"other ({' '.join(str(name).split())[:80]})")
    return known or " ".join(str(stated).split())[:80]


def judge(licenses: Iterable[str]) -> Verdict:
    """What licences add up to.

    Args:
        licenses: canonical identifiers of all parents; order and repetition mean nothing.

    >>> judge(["apache-2.0", "mit"]).license, judge(["gpl-3.0", "llama3"]).status, judge(["mit", "none"]).status
    ('apache-2.0', 'conflict', 'unknown')
    """
    names = sorted(set(licenses))
    known = [table()[name] for name in names if name in table()]
    conflicts = tuple(_conflicts(known))
    questions = tuple(_questions(names))
    if not names:
        questions = ("no parent is recorded",)
    status: Status = "conflict" if conflicts else "unknown" if questions else "compatible"
    chosen = _strictest(known) if status == "compatible" else (None, None, None)
    obligations = tuple((kind, each.id, text) for each in known for kind, text in each.obligations.items())
    return Verdict(tuple(names), status, *chosen, conflicts, questions, obligations)


def license_verdict(cards: Iterable[Mapping[str, Any] | None]) -> Verdict:
    """What the licences in some model cards add up to: front matter each, or None where there is no card.

    Example:
        >>> license_verdict([{"license": "apache-2.0"}, {"license": "mit"}]).status
        'compatible'
    """
    return judge(license for card in cards for license in canonical(card))


def _questions(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name == NONE:
            yield "a parent states no licence, so its author has given no rights that we know of"
        elif name == NOT_RECORDED:
            yield "the licence of a parent is not recorded"
        elif name not in table():
            yield f"{name}: not in the table of licences; a person has to read its text"
        elif table()[name].open_question:
            yield f"{name}: {table()[name].open_question}"


def _conflicts(known: Sequence[License]) -> Iterator[Conflict]:
    """Reasons, each with the fewest licences that give it; a set that has one keeps it when licences come."""
    for each in known:
        if "no_derivatives" in each.obligations:
            reason = "a merge is an adaptation, and this licence lets none be shared"
            yield Conflict((_clause(each, "no_derivatives"),), reason)
    yield from _excluding(known)
    for mine, theirs in itertools.permutations(known, 2):
        if "output_limits" in mine.obligations and theirs.model_terms:
            reason = "the first lets its material improve its own family only, and the second is another family's"
            yield Conflict((_clause(mine, "output_limits"), _clause(theirs, *_BINDING, "attribution")), reason)


def _excluding(known: Sequence[License]) -> Iterator[Conflict]:
    """Smallest sets of licences with a share-alike text among them, of which no outcome holds what the others ask."""
    if _outcomes(known) != []:
        return
    found: list[set[str]] = []
    for size in range(2, len(known) + 1):
        for party in itertools.combinations(known, size):
            ids = {each.id for each in party}
            if _outcomes(party) == [] and not any(smaller <= ids for smaller in found):
                found.append(ids)
                clauses = tuple(_clause(each, *_SAME, *_FURTHER) for each in party)
                yield Conflict(clauses, "no licence keeps all of these")
        if found:
            return


def _outcomes(party: Iterable[License]) -> list[str] | None:
    """Licences that may cover a work made of these; None where none of them says which."""
    party = list(party)
    alike = [each for each in party if each.outcomes]
    if not alike:
        return None
    further = {kind for each in party for kind in _FURTHER if kind in each.obligations}
    shared = set.intersection(*(set(each.outcomes) for each in alike))
    return [
        name
        for name in alike[0].outcomes
        if name in shared and further <= {*table()[name].obligations, *table()[name].admits}
    ]


def _clause(license: License, *kinds: str) -> tuple[str, str, str]:
    kind = next(each for each in kinds if each in license.obligations)
    return license.id, kind, license.obligations[kind]


def _strictest(known: Sequence[License]) -> tuple[str | None, str | None, str | None]:
    """`license`, `license_name`, `license_link` of the card: one licence that holds all, or several side by side."""
    outcomes = _outcomes(known)
    binding = [each for each in known if any(kind in each.obligations for kind in _BINDING)]
    if outcomes:
        stated = [each.id for each in known if each.id in outcomes]
        chosen = table()[(stated or outcomes)[0]]
    elif len(binding) > 1:
        return "other", " and ".join(each.id for each in binding), LINK
    else:
        chosen = binding[0] if binding else max(known, key=lambda each: (len(each.obligations), each.id))
    return (chosen.id, None, None) if chosen.hub == chosen.id else (chosen.hub, chosen.id, chosen.link)
