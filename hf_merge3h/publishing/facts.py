"""What a manifest says, in the form in which cards ask for it. What it does not say stays None: "not recorded"."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from ..manifest import Manifest
from . import licenses
from .text import is_hub_id, listed, one_line

H_NAMES = ("helpfulness", "honesty", "harmlessness")


@dataclass(frozen=True)
class Parent:
    """A model or adapter that went into the merge.

    Attributes:
        role: base, helpfulness, ...; a model that carries adapters has the role too, with `carrier` set.
        source: a Hub id, or what the maker called the folder or module.
        commit: of the Hub.
        kind: model or adapter.
        card: what its own README says; None where it says nothing.
        card_known: whether that is recorded.
        hashes: file name -> BLAKE3.
        carrier: the model that an adapter of the same role lies on.
    """

    role: str
    source: str
    commit: str | None
    kind: str
    card: Mapping[str, Any] | None
    card_known: bool
    hashes: Mapping[str, str]
    carrier: bool = False

    @property
    def hub_id(self) -> str | None:
        """The id on the Hub; None for a folder or a module in memory."""
        return self.source if self.commit is not None and is_hub_id(self.source) else None

    @property
    def name(self) -> str:
        """What a card calls it: of a folder its last part only, which is nobody's home."""
        return self.hub_id or folder_name(self.source)

    @property
    def licenses(self) -> tuple[str, ...]:
        """Canonical identifiers of the licences that it states."""
        return licenses.canonical(self.card) if self.card_known else (licenses.NOT_RECORDED,)


@dataclass(frozen=True)
class Facts:
    """A manifest as cards see it."""

    content: Mapping[str, Any]

    @property
    def is_adapter(self) -> bool:
        """Whether an adapter came out."""
        return self.content.get("kind") == "adapter"

    @functools.cached_property
    def method(self) -> dict[str, str]:
        """`name`, `title`, `paper`, `notice` of the main method."""
        stated = self.content.get("method") or {}
        names = [entry["method"] for entry in self.resolved for _ in entry["tensors"]]
        name = stated.get("name") or (max(names, key=names.count) if names else "")
        keys = ("title", "paper", "notice")
        return {"name": name, **{key: str(stated.get(key) or "") for key in keys}, "title": stated.get("title") or name}

    @property
    def resolved(self) -> Sequence[Mapping[str, Any]]:
        """The settings that were used."""
        return self.content["recipe"]["resolved"]

    @functools.cached_property
    def parents(self) -> tuple[Parent, ...]:
        """All models and adapters, the base first, each once for each role."""
        found: list[Parent] = []
        for entry in self.content["models"]:
            adapters = entry["adapters"]
            role = entry.get("role") or ("base" if entry["base"] else "")
            found.append(_parent(entry, role, "model", carrier=bool(adapters)))
            found += [_parent(each, role, "adapter") for each in adapters]
        return each_once(found)

    @property
    def base(self) -> Parent | None:
        """What task vectors were counted from."""
        return next((each for each in self.parents if each.role == "base"), None)

    @property
    def named_base(self) -> str | None:
        """The Hub id that a merged adapter's config names as its base, though it may have been merged on a copy."""
        found = self.content["output"].get("base_model")
        return found if isinstance(found, str) and is_hub_id(found) else None

    @property
    def experts(self) -> tuple[Parent, ...]:
        """The parents whose roles are merged: adapters rather than the models they lie on."""
        return tuple(each for each in self.parents if each.role not in ("base", "") and not each.carrier)

    @functools.cached_property
    def roles(self) -> tuple[str, ...]:
        """Roles of the experts."""
        return tuple(dict.fromkeys(each.role for each in self.experts))

    @property
    def copied(self) -> bool:
        """Whether all tensors were copied, none computed: layers on top of each other."""
        return self.method["name"] == "passthrough" and not any(entry.get("roles") for entry in self.resolved)

    def weight(self, role: str) -> float | str | None:
        """The weight of a role; "varies" where tensors differ."""
        found = {
            entry["weights"][place]
            for entry in self.resolved
            for place, each in enumerate(entry.get("roles", ()))
            if each == role and place < len(entry.get("weights", ()))
        }
        return None if not found else found.pop() if len(found) == 1 else "varies by tensor"

    @functools.cached_property
    def parameters(self) -> dict[str, Any]:
        """The main method's parameters; "varies by tensor" where tensors differ."""
        found: dict[str, list[Any]] = {}
        for entry in self.resolved:
            if entry["method"] == self.method["name"]:
                for key, value in entry["parameters"].items():
                    found.setdefault(key, [])
                    found[key] += [value] if value not in found[key] else []
        return {key: values[0] if len(values) == 1 else "varies by tensor" for key, values in found.items()}

    @functools.cached_property
    def verdict(self) -> licenses.Verdict:
        """What the parents' licences add up to."""
        return licenses.judge(each for parent in self.parents for each in parent.licenses)

    @property
    def permission(self) -> Mapping[str, str] | None:
        """What a person said who published in spite of a conflict."""
        return self.content.get("permission")

    @property
    def evaluation(self) -> Mapping[str, Any] | None:
        """Results, or None where nothing was evaluated."""
        return self.content.get("evaluation")

    @property
    def diagnostics(self) -> Sequence[Mapping[str, Any]]:
        """Figures, party by party."""
        found = self.content["diagnostics"]
        return found if isinstance(found, list) else ()

    @property
    def hashes(self) -> Mapping[str, str]:
        """BLAKE3 of the files of the merge."""
        found = self.content["output"]["hashes"]
        return found if isinstance(found, dict) else {}

    @functools.cached_property
    def auto_class(self) -> str:
        """The class of transformers that loads the merge."""
        names = [each for each in (entry.get("architecture") for entry in self.content["models"]) if each]
        for end, auto in (
            ("ForCausalLM", "AutoModelForCausalLM"), ("LMHeadModel", "AutoModelForCausalLM"),
            ("ForConditionalGeneration", "AutoModelForSeq2SeqLM"),
            ("ForSequenceClassification", "AutoModelForSequenceClassification"),
            ("ForImageClassification", "AutoModelForImageClassification"),
        ):  # fmt: skip
            if names and names[0].endswith(end):
                return auto
        return "AutoModel"

    @property
    def generates(self) -> bool:
        """Whether it is a model that writes text."""
        return self.auto_class == "AutoModelForCausalLM"

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer lies beside the weights."""
        return any(name.startswith(("tokenizer", "vocab", "spiece")) for name in self.hashes)

    @property
    def has_template(self) -> bool:
        """Whether prompts go through a chat template."""
        return "chat_template.jinja" in self.hashes

    def called(self, role: str) -> str:
        """What a sentence calls an expert: its role, or where it has none of its own, the parent's name."""
        if not re.fullmatch(r"expert_\d+", role):
            return one_line(role, 40)
        return next(each.name for each in self.experts if each.role == role)

    def title(self) -> str:
        """A name for a merge that has none."""
        parts = listed([self.called(role) for role in self.roles[:6]])
        return f"{one_line(self.method['title'], 60)} of {parts or 'layers'}"


def folder_name(place: str) -> str:
    """The last part of a folder's path."""
    path = PureWindowsPath(place) if "\\" in place else PurePosixPath(place)
    return one_line(path.name or place, 100)


def each_once(parents: Sequence[Parent]) -> tuple[Parent, ...]:
    """Parents in the order of their roles; the base once, however many adapters lie on it."""
    places = {(each.source, each.commit) for each in parents if each.role == "base"}
    kept = [each for each in parents if not each.carrier or (each.source, each.commit) not in places]
    return tuple(sorted(kept, key=lambda each: _rank(each.role)))


def _rank(role: str) -> int:
    """The base first, then the three H as people name them, then others as they come."""
    order = ("base", *H_NAMES)
    return order.index(role) if role in order else len(order)


def facts_of(manifest: Manifest) -> Facts:
    """The facts of a manifest that `load_manifest` has read or a merge has made."""
    return Facts(manifest.content)


def _parent(entry: Mapping[str, Any], role: str, kind: str, *, carrier: bool = False) -> Parent:
    commit, hashes = entry.get("commit"), entry.get("hashes")
    return Parent(
        role=role,
        source=str(entry.get("source", "")),
        commit=commit if isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{40}", commit) else None,
        kind=kind,
        card=entry.get("card"),
        card_known="card" in entry,
        hashes=hashes if isinstance(hashes, dict) else {},
        carrier=carrier,
    )


def regressions(evaluation: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(data set, comparison) wherever the merge is distinguishably worse."""
    for dataset in evaluation["datasets"]:
        for each in dataset["paired"]:
            if each.get("distinguishable") and each.get("better") is False:
                yield dataset, each
