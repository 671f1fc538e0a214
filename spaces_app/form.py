"""Two views of one recipe: the YAML, which is what counts, and a form that shows it and changes it.

A recipe may say more than the form shows (slices, gradients, conditions). The form then changes its own keys and leaves
all others as they are.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

import hf_merge3h
from hf_merge3h import MergeError

MOST_EXPERTS = 4
MOST_TEXT = 100_000  # characters of a recipe
ROLES = ("helpfulness", "honesty", "harmlessness")
LABEL = "recipe"
_LINK_LIMIT = 20_000  # characters of a recipe that a link may hold
_CODE_LIMIT = 30_000  # characters of the link itself
_WIDTH = 110


@dataclass(frozen=True)
class Expert:
    """One row of the form; an empty source is an unused row, no weight is the method's default."""

    role: str = ""
    source: str = ""
    weight: float | None = None


@dataclass(frozen=True)
class Form:
    """What the form shows of a recipe.

    Attributes:
        kind: what the experts are: "adapters" or "models".
        parameters: by the recipe's names; what is not in it has the recipe's default.
        beyond: what the recipe says beyond the form, one line each.
    """

    base: str = ""
    kind: str = "adapters"
    experts: tuple[Expert, ...] = ()
    method: str = "r_tsvm"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    out: str = "weights"
    dtype: str = ""
    seed: int = 0
    beyond: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the line of the recipe (None: no line of it), what it is, and what to do."""

    line: int | None
    text: str
    remedy: str = ""


def problems_of(error: Exception) -> list[Problem]:
    """The problems that an error of the library lists, with the recipe's lines taken out of their texts."""
    head, _, listed = str(error).partition(":\n  - ")
    return [_problem(each) for each in (listed.split("\n  - ") if listed else [head])]


_UNREADABLE = "look at this line and those before it for an open bracket or quote, a missing colon or a wrong indent"


def _problem(text: str) -> Problem:
    text = " ".join(text.split())
    found = re.match(rf"{LABEL}(?::(\d+))?: (.*)", text)
    line = int(found[1]) if found and found[1] else None
    text = found[2] if found else text
    what, _, remedy = text.partition("; ")
    return Problem(line, what, remedy or (_UNREADABLE if what.startswith("no YAML") else ""))


def read(text: str) -> tuple[Any, list[Problem]]:
    """A checked recipe and no problems, or None and what is wrong with the text."""
    if not isinstance(text, str) or not text.strip():
        return None, [Problem(None, "the recipe is empty", "choose an example, or fill in the form")]
    if len(text) > MOST_TEXT:
        return None, [Problem(None, f"a recipe of {len(text)} characters", f"one here has at most {MOST_TEXT}")]
    try:
        recipe = hf_merge3h.read_recipe(text if "\n" in text else text + "\n", LABEL)
    except MergeError as error:
        return None, problems_of(error)
    found = _out_of_range(text, recipe)
    return (None, found) if found else (recipe, [])


def _out_of_range(text: str, recipe: Any) -> list[Problem]:
    """Values that the method refuses: the reader leaves them to the plan, and a person wants to know at once."""
    known, found = hf_merge3h.recipe_parameters(recipe.method), []
    for name, value in (recipe.given.get("parameters") or {}).items():
        if name not in known or isinstance(value, (list, dict)) or (value in (0, 1) and known[name].choices):
            continue
        try:
            known[name].check(bool(value) if known[name].type is bool and value in (0, 1) else value)
        except MergeError as error:
            (problem,) = problems_of(error)
            line = next((n for n, each in enumerate(text.splitlines(), 1) if re.match(rf"\s+{name}\s*:", each)), None)
            found.append(Problem(line, problem.text, problem.remedy))
    return found


def form_of(data: Mapping[str, Any]) -> Form:
    """The form that shows a recipe, given as plain data that was checked."""
    kind = "adapters" if "adapters" in data else "models"
    given = data.get("parameters") or {}
    plain = {name: value for name, value in given.items() if not isinstance(value, (list, dict))}
    experts = _adapters(data) if kind == "adapters" else _models(data)
    return Form(
        base=_name(data.get("base_model")),
        kind=kind,
        experts=experts,
        method=str(data.get("merge_method", "")),
        parameters=plain,
        out=data.get("out", "weights"),
        dtype=data.get("out_dtype") or data.get("dtype") or "",
        seed=data.get("seed", 0),
        beyond=tuple(_beyond(data, given, experts)),
    )


def _name(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _adapters(data: Mapping[str, Any]) -> tuple[Expert, ...]:
    given = data["adapters"]
    keyed = given.items() if isinstance(given, Mapping) else [(f"expert_{n}", each) for n, each in enumerate(given, 1)]
    return tuple(_expert(role, each, "adapter") for role, each in keyed)


def _models(data: Mapping[str, Any]) -> tuple[Expert, ...]:
    rows, roles = data.get("models") or [], data.get("roles")
    names = [_name(each.get("model") if isinstance(each, Mapping) else each) for each in rows]
    by_name = {_name(model): role for role, model in roles.items()} if isinstance(roles, Mapping) else {}
    experts = [number for number, name in enumerate(names) if name != _name(data.get("base_model"))]
    listed = dict(zip(experts, roles, strict=False)) if isinstance(roles, Sequence) else {}
    return tuple(
        _expert(by_name.get(name) or listed.get(number) or "", each, "model")
        for number, (name, each) in enumerate(zip(names, rows, strict=True))
        if number in experts
    )


def _expert(role: str, given: Any, key: str) -> Expert:
    if not isinstance(given, Mapping):
        return Expert(role, _name(given))
    weight = (given.get("parameters") or {}).get("weight")
    single = weight if isinstance(weight, (int, float)) and not isinstance(weight, bool) else None
    return Expert(role, _name(given.get(key)), single)


def _beyond(data: Mapping[str, Any], given: Mapping[str, Any], experts: Sequence[Expert]) -> list[str]:
    shown = {"merge_method", "base_model", "adapters", "models", "parameters", "out", "dtype", "seed", "roles"}
    found = [f"`{name}`" for name in data if name not in shown]
    found += [f"`parameters.{name}`" for name, value in given.items() if isinstance(value, (list, dict))]
    if len(experts) > MOST_EXPERTS:
        found.append(f"{len(experts) - MOST_EXPERTS} more experts")
    rows = data.get("adapters") or data.get("models") or ()
    for row in rows.values() if isinstance(rows, Mapping) else rows:
        own = row.get("parameters") or {} if isinstance(row, Mapping) else {}
        if set(own) - {"weight"} or isinstance(own.get("weight"), (list, dict)):
            found.append("parameters of single experts")
            break
    return found


def with_form(data: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """The recipe with what the form says; keys that the form does not have are left as they are."""
    old = form_of(data)
    new: dict[str, Any] = {"merge_method": form.method}
    if form.base:
        new["base_model"] = form.base
    changed = (form.kind, form.experts) != (old.kind, old.experts[:MOST_EXPERTS])
    sources = {key: data[key] for key in ("adapters", "models", "slices", "modules") if key in data}
    new.update(_sources(form, data, old) if changed else sources)
    if form.kind == "models":
        roles = [expert.role for expert in form.experts]
        if changed and any(roles):
            new["roles"] = [role or f"expert_{number}" for number, role in enumerate(roles, start=1)]
        elif not changed and "roles" in data:
            new["roles"] = data["roles"]
    if parameters := _parameters(data, form):
        new["parameters"] = parameters
    if form.dtype:
        new["dtype"] = form.dtype
    if form.out != "weights":
        new["out"] = form.out
    if form.seed:
        new["seed"] = form.seed
    shown = {"merge_method", "base_model", "parameters", "dtype", "out", "seed", "roles"}
    shown |= {"adapters", "models", "slices", "modules", "out_dtype"}
    return {**new, **{key: value for key, value in data.items() if key not in shown}}


def _sources(form: Form, data: Mapping[str, Any], old: Form) -> dict[str, Any]:
    """Rows of the form as a recipe lists them; what a row had beyond the form stays with its source."""
    key = "adapter" if form.kind == "adapters" else "model"
    listed = data.get(old.kind) or ()
    rows = listed.values() if isinstance(listed, Mapping) else listed
    had = {expert.source: row for expert, row in zip(old.experts, rows, strict=False) if isinstance(row, Mapping)}
    made = []
    experts = [*form.experts, *old.experts[MOST_EXPERTS:]] if form.kind == old.kind else form.experts
    for expert in experts:
        own = dict(had.get(expert.source, {}).get("parameters") or {})
        if expert.weight is not None:
            own["weight"] = expert.weight
        elif not isinstance(own.get("weight"), (list, dict)):
            own.pop("weight", None)
        made.append({key: expert.source, "parameters": own} if own else {key: expert.source})
    if form.kind == "models":
        return {"models": made}
    roles = [expert.role or f"expert_{number}" for number, expert in enumerate(experts, start=1)]
    plain = [row if "parameters" in row else row[key] for row in made]
    # Two rows of one role are two keys of one name: a list keeps both, and the reader says what is wrong with it.
    return {"adapters": dict(zip(roles, plain, strict=True)) if len(set(roles)) == len(roles) else plain}


def _parameters(data: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """The old recipe's parameters where the new method has them too, with the form's values put in."""
    try:
        known = hf_merge3h.recipe_parameters(form.method)
    except MergeError:
        return dict(form.parameters)
    given = data.get("parameters") or {}
    kept = {
        name: value for name, value in given.items() if isinstance(value, (list, dict)) and name in {*known, "weight"}
    }
    return {**kept, **{name: value for name, value in form.parameters.items() if name in known}}


def dump(data: Mapping[str, Any]) -> str:
    """YAML of a recipe, in the order in which one reads it."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)


class _Dumper(yaml.SafeDumper):
    """Lists of numbers on one line, as people write gradients."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.Node:
        """One line for numbers, one each for all else."""
        return super().represent_sequence(tag, sequence, all(isinstance(each, (int, float)) for each in sequence))

    def ignore_aliases(self, data: Any) -> bool:
        """Never `&id001`: a recipe is read by people."""
        return True


def to_link(text: str) -> str:
    """A recipe as the value of `?recipe=`; empty where it is too long for a link."""
    if len(text) > _LINK_LIMIT:
        return ""
    return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode().rstrip("=")


def from_link(code: str) -> str:
    """The recipe of a link.

    Raises:
        ValueError: no recipe, or one that unpacks to more than a link may hold.
    """
    if len(code) > _CODE_LIMIT:
        raise ValueError("the link is too long")
    unpack = zlib.decompressobj()
    try:
        raw = unpack.decompress(base64.urlsafe_b64decode(code + "=" * (-len(code) % 4)), 4 * _LINK_LIMIT)
        if unpack.unconsumed_tail or not unpack.eof:
            raise ValueError("it unpacks to more than a recipe")
        return raw.decode()
    except (zlib.error, ValueError) as error:
        raise ValueError(f"the link holds no recipe: {error}") from None
