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
    """One table for each set of experts; a column that says the same of every block is told in a sentence instead."""
    found = []
    for party in facts.diagnostics:
        roles = list(party["roles"])
        own = _own_names([str(each["name"]) for each in party["blocks"]])
        rows = [_block(code(own[str(each["name"])]), each) for each in party["blocks"]]
        rows.append(_block(Markdown("**whole model**"), party["total"]))
        same = {_HEADS[at]: rows[0][at] for at in range(-len(_HEADS), 0) if len({row[at] for row in rows}) == 1}
        if len(rows) - 1 > _BLOCKS:
            half = _BLOCKS // 2
            gap = (f"… {len(rows) - 1 - _BLOCKS} more", *[""] * (len(rows[0]) - 1))
            rows = [*rows[:half], gap, *rows[-1 - half :]]
        for at in range(-len(_HEADS), 0):
            if _HEADS[at] in same:
                rows = [[*row[:at], "", *row[len(row) + at + 1 :]] for row in rows]  # `table` leaves it out
        head = ("block", *(f"norm {one_line(role, 30)}" for role in roles), "norm merged", *_HEADS)
        told = listed([f"{name} {value}" for name, value in same.items() if value != ""])
        listing = listed([one_line(role, 40) for role in roles])
        found.append({"roles": listing, "table": table(head, rows), "same": Markdown(told)})
    return found


_HEADS = ("cosine", "conflict", "rank", "survived")


def _own_names(names: Sequence[str]) -> dict[str, str]:
    """Names of blocks without what all of them begin with: `layers.3` of `model.layers.3`."""
    parts = [name.split(".") for name in names]
    most = max(0, min(map(len, parts), default=0) - 2)  # two parts stay
    common = next((at for at in range(most) if len({each[at] for each in parts}) > 1), most)
    return {name: ".".join(each[common:]) for name, each in zip(names, parts, strict=True)}


def _block(name: Markdown, block: Mapping[str, Any]) -> Sequence[Any]:
    cosines = block["cosines"]
    pairs = [value for i, row in enumerate(cosines) for value in row[i + 1 :] if isinstance(value, (int, float))]
    rank = block.get("kept_rank")
    return (
        name,
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
    others = [each for each in evaluation["experts"] if each != base]
    names = [merged, *([base] if base else []), *others]
    rows = []
    for each in sorted(evaluation["datasets"], key=lambda each: id(each) not in worse):
        arrow = "↑" if each["direction"] == "higher" else "↓"
        found = [each["values"].get(name) for name in names]
        places = _places(found)
        cells = [_value(one, places, bold=name == merged) for name, one in zip(names, found, strict=True)]
        what = f"{dataset_name(each)}: {kind_name(figure_name(each))} {arrow}"
        rows.append((each["h"], what, number(each["n"]), *cells))
    heads = ["merged", *(["base"] if base else []), *(one_line(name, 40) for name in others)]
    return table(("H", "data set and figure", "n", *heads), rows, left=2)


def experts(evaluation: Mapping[str, Any]) -> str:
    """Which expert is one of what: `helpful (helpfulness)`."""
    found = {name: h for name, h in evaluation["experts"].items() if name != evaluation.get("base")}
    return listed(
        [f"{one_line(name, 40)} ({one_line(h, 40)})" if h and h != name else name for name, h in found.items()]
    )


def left_out(evaluation: Mapping[str, Any]) -> str:
    """How many questions of which data sets were not asked, because an expert had been trained on them."""
    counts = (evaluation.get("summary") or {}).get("left_out")
    found = counts.items() if isinstance(counts, Mapping) else ()
    return listed([f"{count} of {name}" for name, count in found if isinstance(count, int) and count > 0])


def _places(found: Sequence[Mapping[str, Any] | None]) -> int:
    """Decimals of a row: two, and three where an interval is narrower than 0.1 and so has use for them."""
    ends = [(one.get("low"), one.get("high")) for one in found if one is not None]
    wide = all(
        isinstance(low, (int, float)) and isinstance(high, (int, float)) and high - low >= 0.1 for low, high in ends
    )
    return 2 if ends and wide else 3


def _value(found: Mapping[str, Any] | None, places: int, *, bold: bool) -> Markdown:
    if found is None or not isinstance(found.get("value"), (int, float)):
        return Markdown("not evaluated")
    value = fixed(found["value"], places)
    return Markdown((f"**{value}**" if bold else value) + _interval(found, places, signed=False))


def _interval(found: Mapping[str, Any], places: int, *, signed: bool) -> str:
    """The ends, with a blank before them; nothing where there are none, as for values that all agree."""
    ends = [found.get("low"), found.get("high")]
    if not all(isinstance(end, (int, float)) for end in ends):
        return ""
    return " [" + ", ".join(fixed(end, places, signed=signed) for end in ends) + "]"


def dataset_name(dataset: Mapping[str, Any]) -> str:
    """What a reader calls a data set."""
    return one_line(dataset.get("title") or dataset["dataset"], 60)


def figure_name(dataset: Mapping[str, Any]) -> str:
    """The metric, and which of its figures, without saying one of them twice."""
    metric, key = one_line(dataset["metric"], 60), one_line(dataset["key"], 60)
    return key if key.endswith(metric) else metric if metric.endswith(key) else f"{metric}: {key}"


def change(pair: Mapping[str, Any]) -> Markdown:
    """The merge's value less another model's, with its interval."""
    return Markdown(fixed(pair["difference"], signed=True) + _interval(pair, 3, signed=True))


def differences(evaluation: Mapping[str, Any]) -> Markdown:
    """Paired differences, regressions first."""
    rows = [_difference(evaluation, dataset, pair) for dataset in evaluation["datasets"] for pair in dataset["paired"]]
    rows.sort(key=lambda row: _ORDER.index(row[2]))  # stable: data sets keep their order
    head = ("data set", "merged against", "verdict", "difference", "p")
    return table(head, rows, left=3) if rows else Markdown("")


_ORDER = (Markdown("**worse**"), Markdown("better"), Markdown("not distinguishable"))


def _difference(evaluation: Mapping[str, Any], dataset: Mapping[str, Any], pair: Mapping[str, Any]) -> Sequence[Any]:
    against = "base" if pair["against"] == evaluation.get("base") else pair["against"]
    verdict = _ORDER[2]
    if pair.get("distinguishable"):
        verdict = _ORDER[0] if pair.get("better") is False else _ORDER[1]
    return dataset_name(dataset), against, verdict, change(pair), number(pair.get("p_holm"), 2)
