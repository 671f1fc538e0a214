"""The report as Markdown and as text for a terminal: what got worse first, then the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .report import order, regressions
from .suite import NOT_ASKED

if TYPE_CHECKING:
    from .compare import Figure
    from .report import Report

Table = tuple[str, list[list[str]]]


def number(value: float | None, signed: bool = False) -> str:
    """Three decimals, or a dash.

    >>> number(0.12345, signed=True), number(None)
    ('+0.123', '-')
    """
    if value is None or value != value:
        return "-"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def with_interval(told: dict[str, Any] | None, signed: bool = False) -> str:
    """A value with its interval in brackets."""
    if told is None or told.get("value") is None:
        return "undefined"
    low, high = told.get("low"), told.get("high")
    ends = "" if low is None or high is None else f" [{number(low, signed)}, {number(high, signed)}]"
    return number(told["value"], signed) + ends


def _difference(one: dict[str, Any]) -> str:
    return with_interval({**one, "value": one["difference"]}, signed=True)


def _cell(figure: Figure | None) -> str:
    return "-" if figure is None else with_interval(figure.plain())


def verdict(one: dict[str, Any]) -> str:
    """What a paired difference says, in a word."""
    if not one["distinguishable"]:
        return "not distinguishable"
    return "better" if one["better"] else "worse"


def headline(report: Report) -> list[str]:
    """What got worse, one sentence each; or that nothing did that these items could show."""
    lines = [
        f"{name}: {report.merged} is worse than {one['against']} by {number(abs(one['difference']))} "
        f"({_difference(one)}, n = {one['n']}, Holm p = {one['p_holm']:.3g})"
        for name, one in regressions(report)
    ]
    if lines:
        return lines
    if not any(report.paired.values()):
        return ["There is no other model on the same items to compare with."]
    least = min(one["n"] for ones in report.paired.values() for one in ones)
    return [f"None that these items could show (n from {least} a data set; small differences need more)."]


def tables(report: Report) -> list[Table]:
    """All tables of the report: title, rows with the head first."""
    names = order(report.models, report.merged)
    found: list[Table] = []
    rows = [["H", "data set", "figure", "better", "n", *names]]
    for name, fact in report.facts["datasets"].items():
        if report.figures[name]:
            n = max(one.n for one in report.figures[name].values())
            head = [fact["h"], name, fact["key"], fact["direction"], str(n)]
            rows.append([*head, *(_cell(report.figures[name].get(model)) for model in names)])
    if len(rows) > 1:
        found.append(("Data sets", rows))
    summary = report.summary
    if summary.get("h"):
        rows = [["", *names]]
        rows += [[h, *(with_interval(of[model]) for model in names)] for h, of in summary["h"].items()]
        if "min_h" in summary:
            rows.append(["least of the three", *(with_interval(summary["min_h"][model]) for model in names)])
        found.append(("Helpfulness, honesty, harmlessness (macro means, higher is better)", rows))
    pairs = [
        [name, one["against"], _difference(one), str(one["n"]),
         f"{one['p_holm']:.3g}", verdict(one)]
        for name, ones in report.paired.items() for one in ones
    ]  # fmt: skip
    if pairs:
        found.append((f"{report.merged} minus the others, item by item",
                      [["data set", "against", "difference", "n", "Holm p", ""], *pairs]))  # fmt: skip
    return [*found, *_merge_tables(report)]


def _merge_tables(report: Report) -> list[Table]:
    summary, found = report.summary, []
    rows = []
    if summary.get("gain"):
        rows += [[f"gain over the base, {h}", with_interval(one, signed=True)] for h, one in summary["gain"].items()]
        worst = summary["worst_drop"]
        rows.append(["worst change", f"{worst['h']}: {with_interval(worst, signed=True)}"])
    rows += [
        [f"retention of {expert} ({one['h']})", with_interval(one)]
        for expert, one in summary.get("retention", {}).items()
    ]
    rows += [
        [f"recovery of {expert} ({one['h']})", one.get("reason") or with_interval(one)]
        for expert, one in summary.get("recovery", {}).items()
    ]
    if len(report.models) > 1 and summary.get("pareto"):
        rivals = summary["pareto"][report.merged]
        rows.append(["Pareto", "on the front" if not rivals else f"dominated by {', '.join(rivals)}"])
    if len(report.models) > 1 and "hypervolume" in summary:
        volume = summary["hypervolume"]
        rows.append(
            ["hypervolume without and with it", f"{number(volume['without_merged'])}, {number(volume['with_merged'])}"]
        )
    if rows:
        found.append(("What the merge did", [["", report.merged], *rows]))
    if summary.get("conflict"):
        heads = list(next(iter(summary["conflict"].values())))
        found.append(("Change that each expert makes on each H (expert minus base)", [
            ["", *heads],
            *([who, *(with_interval(one[h], signed=True) for h in heads)] for who, one in summary["conflict"].items()),
        ]))  # fmt: skip
    missing = [one for one in report.not_evaluated if one["reason"] != NOT_ASKED]
    if missing:
        found.append(("Not evaluated", [
            ["data set", "H", "reason"], *([one["dataset"], one["h"], one["reason"]] for one in missing),
        ]))  # fmt: skip
    return found


def notes(report: Report) -> list[str]:
    """What a careful reader should know about the figures."""
    facts = report.facts
    coverage = ", ".join(f"{h}: {told}" for h, told in report.summary["coverage"].items())
    told = [
        f"Suite {facts['suite']}, seed {facts['seed']}, {facts['date'][:10]}. In brackets: 95 % intervals "
        "(Wilson for rates, else bootstrap over items). Differences are paired; Holm over data sets.",
        f"Coverage: {coverage}. What is missing is not imputed.",
    ]
    told += stopped(facts)
    left = {name: n for name, n in facts["left_out"].items() if n}
    if left:
        listed = ", ".join(f"{name} {n}" for name, n in left.items())
        told.append(f"Left out, because an evaluated expert was trained on the question: {listed}.")
    alone = [name for name, fact in facts["datasets"].items() if not fact["averaged"] and report.figures[name]]
    if alone:
        told.append(f"{', '.join(alone)}: no rate, so it counts for no mean.")
    skipped = [one["dataset"] for one in report.not_evaluated if one["reason"] == NOT_ASKED]
    if skipped:
        told.append(f"Not asked for: {', '.join(skipped)}.")
    for name in facts["datasets"]:
        for model in report.models:
            lost = len(report.scores[model][name]) - len(report.values[name][model])
            if lost:
                told.append(
                    f"{name}, {model}: {lost} of {len(report.scores[model][name])} items have no verdict and no value."
                )
    if facts["judge"]:
        told.append(f"Judge: {facts['judge']['id']} ({facts['judge']['revision'] or 'revision not known'}).")
    return told + [f"Warning: {one}." for one in facts["warnings"]]


def stopped(facts: Mapping[str, Any]) -> list[str]:
    """What a time limit left out, in a sentence; nothing where it did not."""
    cut = ", ".join(f"{name} {one['answered']} of {one['of']}" for name, one in (facts.get("stopped") or {}).items())
    if not cut:
        return []
    return [f"Asking stopped after {facts['max_seconds']:g} s. All models answered, in the order of the seed: {cut}."]


def markdown(report: Report) -> str:
    """Regressions, tables, flips, notes."""
    parts = [f"## 3H evaluation: {_md(report.merged)}", "### What got worse"]
    parts.append("\n".join(f"- {_md(line)}" for line in headline(report)))
    for title, rows in tables(report):
        head, *body = [[_md(cell) for cell in row] for row in rows]
        lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in body)]
        parts += [f"### {title}", "\n".join(lines)]
    counts = [f"- {_md(line)}" for line in flip_lines(report)]
    if counts:
        parts += ["### Items whose verdict changed", "\n".join(counts)]
    return "\n\n".join([*parts, "\n".join(f"- {_md(note)}" for note in notes(report))]) + "\n"


def flip_lines(report: Report) -> list[str]:
    """How many verdicts changed, against each model on each data set."""
    told = []
    for name in report.facts["datasets"]:
        for other in report.models:
            found = report.flips(name, other) if other != report.merged else {}
            if any(found.values()):
                ways = ", ".join(f"{len(items)} from {way}" for way, items in found.items())
                told.append(f"{name}, {other} to {report.merged}: {ways}")
    return told


def _md(text: str) -> str:
    """Text that Markdown shows as it is, also in a table."""
    text = " ".join(text.split())
    for sign in "\\`*|<>":
        text = text.replace(sign, f"\\{sign}")
    return text


def plain_text(report: Report) -> str:
    """The same for a terminal."""
    lines = [f"3H evaluation of {report.merged}", "", "What got worse", *(f"  {line}" for line in headline(report))]
    for title, rows in tables(report):
        lines += ["", title, *align(rows)]
    return "\n".join([*lines, "", *notes(report)])


def short_text(report: Report) -> str:
    """What got worse, the figures, and what was left out."""
    lines = ["What got worse", *(f"  {line}" for line in headline(report))]
    for title, rows in tables(report)[:2]:
        lines += ["", title, *align(rows)]
    return "\n".join([*lines, "", *notes(report)])


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as columns of text."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
