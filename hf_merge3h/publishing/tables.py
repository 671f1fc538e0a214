"""The tables of a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .facts import Facts, Parent, regressions
from .text import NOT_RECORDED, Markdown, code, fixed, kind_name, link, listed, number, one_line, percent, table

_BLOCKS = 24  # rows of the diagnostics; a deep model's middle blocks are left out, and the picture has them


def place(parent: Parent) -> Markdown:
    """Where a parent is found."""
    if parent.hub_id is None:
        return Markdown(f"{code(parent.name)} (local)")
    return link(parent.hub_id, f"https://huggingface.co/{parent.hub_id}")


def parents(facts: Facts) -> Markdown:
    """Role, source, commit, licence and weight of everything that went in."""
    rows = []
    for each in facts.parents:
        stated = ", ".join(code(name) if name not in ("none", NOT_RECORDED) else name for name in each.licenses)
        weight = ""
        if each.role in facts.roles and not each.carrier and not facts.copied:
            found = facts.weight(each.role)
            weight = number(found) if isinstance(found, (int, float)) else found or NOT_RECORDED
        commit = code(each.commit[:12]) if each.commit else NOT_RECORDED
        kind = f"{each.kind}, carries the adapter" if each.carrier else each.kind
        role = "layers" if facts.copied else each.role or "tokenizer only"
        rows.append((role, Markdown(place(each)), kind, commit, Markdown(stated), weight))
    return table(("role", "source", "kind", "commit", "licence", "weight"), rows, left=5)


def parameters(facts: Facts) -> Markdown:
    """The method's hyper-parameters as used."""
    rows = [(code(key), code(_short(value))) for key, value in facts.parameters.items()]
    return table(("parameter", "value"), rows, left=2) if rows else Markdown("")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bool) or value is None:
        return "none" if value is None else str(value).lower()  # as the recipe has it
    return one_line(value, 60)


def diagnostics(facts: Facts) -> list[dict[str, Any]]:
    """One table for each set of experts."""
    found = []
    for party in facts.diagnostics:
        roles = list(party["roles"])
        blocks: list[Mapping[str, Any] | None] = list(party["blocks"])
        if len(blocks) > _BLOCKS:
            half = _BLOCKS // 2
            blocks = [*blocks[:half], None, *blocks[-half:]]
        skipped = len(party["blocks"]) - _BLOCKS
        width = len(roles) + 6
        rows = [_block(each) if each else (f"… {skipped} more", *[""] * (width - 1)) for each in blocks]
        rows.append(_block({**party["total"], "name": "whole model"}))
        head = ("block", *(f"norm {one_line(role, 30)}" for role in roles), "norm merged", "cosine", "conflict", "rank")
        text = table((*head, "survived"), rows)
        found.append({"roles": listed([one_line(role, 40) for role in roles]), "table": text})
    return found


def _block(block: Mapping[str, Any]) -> Sequence[Any]:
    cosines = block["cosines"]
    pairs = [value for i, row in enumerate(cosines) for value in row[i + 1 :] if isinstance(value, (int, float))]
    rank = block.get("kept_rank")
    return (
        code(block["name"]) if block["name"] != "whole model" else Markdown("**whole model**"),
        *(number(norm, aligned=True) for norm in block["norms"]),
        number(block["merged_norm"], aligned=True),
        fixed(sum(pairs) / len(pairs), 2, signed=True) if pairs else "",
        "" if block.get("sign_conflict") is None else percent(block["sign_conflict"]),
        "" if rank is None else number(rank, aligned=True),
        percent(block["survived"], 1),
    )


def obligations(facts: Facts) -> Markdown:
    """What each parent's licence asks."""
    rows = [(kind_name(kind), code(name), text) for kind, name, text in facts.verdict.obligations]
    return table(("what", "licence", "says"), sorted(rows), left=3) if rows else Markdown("")


def values(evaluation: Mapping[str, Any]) -> Markdown:
    """The 3H table: the merge beside its base and every expert, those data sets first where it got worse."""
    worse = {id(dataset) for dataset, _ in regressions(evaluation)}
    merged, base = evaluation["merged"], evaluation.get("base")
    names = [merged, *([base] if base else []), *(each for each in evaluation["experts"] if each != base)]
    rows = []
    for each in sorted(evaluation["datasets"], key=lambda each: id(each) not in worse):
        arrow = "↑" if each["direction"] == "higher" else "↓"
        cells = [_value(each["values"].get(name), bold=name == merged) for name in names]
        rows.append((each["h"], dataset_name(each), f"{figure_name(each)} {arrow}", number(each["n"]), *cells))
    experts = evaluation["experts"]
    heads = ["merged", *(["base"] if base else []), *(_expert(name, experts) for name in names[1 + bool(base) :])]
    return table(("H", "data set", "metric", "n", *heads), rows, left=3)


def left_out(evaluation: Mapping[str, Any]) -> str:
    """How many questions of which data sets were not asked, because an expert had been trained on them."""
    counts = (evaluation.get("summary") or {}).get("left_out")
    found = counts.items() if isinstance(counts, Mapping) else ()
    return listed([f"{count} of {name}" for name, count in found if isinstance(count, int) and count > 0])


def _expert(name: str, experts: Mapping[str, Any]) -> str:
    h = experts.get(name)
    return f"{name} ({h} expert)" if h and h != name else f"{name} expert"


def _value(found: Mapping[str, Any] | None, *, bold: bool) -> Markdown:
    if found is None or not isinstance(found.get("value"), (int, float)):
        return Markdown("not evaluated")
    value = fixed(found["value"])
    return Markdown((f"**{value}**" if bold else value) + _interval(found, signed=False))


def _interval(found: Mapping[str, Any], *, signed: bool) -> str:
    """The ends, with a blank before them; nothing where there are none, as for values that all agree."""
    ends = [found.get("low"), found.get("high")]
    if not all(isinstance(end, (int, float)) for end in ends):
        return ""
    return " [" + ", ".join(fixed(end, signed=signed) for end in ends) + "]"


def dataset_name(dataset: Mapping[str, Any]) -> str:
    """What a reader calls a data set."""
    return one_line(dataset.get("title") or dataset["dataset"], 60)


def figure_name(dataset: Mapping[str, Any]) -> str:
    """The metric, and which of its figures, without saying one of them twice."""
    metric, key = one_line(dataset["metric"], 60), one_line(dataset["key"], 60)
    return key if key.endswith(metric) else metric if metric.endswith(key) else f"{metric}: {key}"


def change(pair: Mapping[str, Any]) -> Markdown:
    """The merge's value less another model's, with its interval."""
    return Markdown(fixed(pair["difference"], signed=True) + _interval(pair, signed=True))


def differences(evaluation: Mapping[str, Any]) -> Markdown:
    """Paired differences, regressions first."""
    rows = [_difference(evaluation, dataset, pair) for dataset in evaluation["datasets"] for pair in dataset["paired"]]
    rows.sort(key=lambda row: _ORDER.index(row[-1]))  # stable: data sets keep their order
    head = ("H", "data set", "merged against", "difference", "p", "verdict")
    return table(head, rows, left=3) if rows else Markdown("")


_ORDER = (Markdown("**worse**"), Markdown("better"), Markdown("not distinguishable"))


def _difference(evaluation: Mapping[str, Any], dataset: Mapping[str, Any], pair: Mapping[str, Any]) -> Sequence[Any]:
    against = "base" if pair["against"] == evaluation.get("base") else pair["against"]
    verdict = _ORDER[2]
    if pair.get("distinguishable"):
        verdict = _ORDER[0] if pair.get("better") is False else _ORDER[1]
    return dataset["h"], dataset_name(dataset), against, change(pair), number(pair.get("p_holm"), 2), verdict
