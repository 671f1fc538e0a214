"""What the page shows, as HTML: every text that comes from outside is escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import charts
import figures
import radar
from figures import Chart
from form import Problem
from preflight import Preflight
from visits import MOST_MERGES, Merge, Visit

STEPS = ("Models", "Recipe", "Preflight", "Merge", "Look", "Chat", "Compare", "Card", "Publish")
_INTRO = """<h1>Merge a helpful, an honest and a harmless model into one</h1>
<p>Below, a recipe is filled in: three small experts of one base model. Press <b>Merge</b>, see what the merge did to
them, ask all of them the same question, and take the result with you. Merging is arithmetic on weights: nothing is
trained. A merge keeps some of what its experts do and loses some; test what you merge.</p>"""


def intro() -> str:
    """Title, one paragraph, and the way through the page."""
    links = "".join(f'<li><a href="#part-{n}">{n} {name}</a></li>' for n, name in enumerate(STEPS, start=1))
    return f'{_INTRO}<nav aria-label="Parts of this page"><ul class="steps">{links}</ul></nav>'


def banner(reachable: bool) -> str:
    """What to know where there is no Hub."""
    if reachable:
        return ""
    return (
        '<div class="banner" role="status"><b>No Hub.</b> The Hugging Face Hub cannot be reached from here. The '
        "shipped base model and experts work all the same; searching for models does not.</div>"
    )


def part(number: int, about: str) -> str:
    """Heading of a part of the page."""
    return f'<h2 id="part-{number}">{number}. {STEPS[number - 1]}</h2><p>{html.escape(about)}</p>'


def problems(found: Sequence[Problem], title: str = "This recipe cannot be merged yet", text: str = "") -> str:
    """Problems, each with its line and its remedy; the lines are marked in the editor."""
    if not found:
        return ""
    lines, items, marks = text.splitlines(), [], []
    for problem in found[:20]:
        where = f"<strong>Line {problem.line}:</strong> " if problem.line else ""
        quoted = ""
        if problem.line and problem.line <= len(lines):
            quoted = f"<pre>{html.escape(lines[problem.line - 1][:200])}</pre>"
            marks.append(f"#yaml .cm-line:nth-child({problem.line})")
        remedy = f'<span class="remedy">To do: {html.escape(problem.remedy)}</span>' if problem.remedy else ""
        items.append(f"<li>{where}{html.escape(problem.text)}{quoted}{remedy}</li>")
    style = f"<style>{', '.join(marks)} {{ background: var(--bad-back); outline: 1px solid var(--bad); }}</style>"
    return (
        f'<div class="problems" role="alert"><h3>{html.escape(title)}</h3><ul>{"".join(items)}</ul></div>'
        f"{style if marks else ''}"
    )


def recipe_state(found: Sequence[Problem], text: str, beyond: Sequence[str]) -> str:
    """Under the editor: what is wrong, or that all is well, and what the form does not show."""
    if found:
        return problems(found, "This is no recipe yet", text)
    more = f" The form does not show {html.escape(', '.join(beyond))}; it keeps it as it is." if beyond else ""
    return f'<p role="status"><span class="fine">✓ The recipe can be read.</span>{more.replace("`", "")}</p>'


def checked(result: Preflight, text: str) -> str:
    """Preflight: facts, notes, problems."""
    facts = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in result.facts.items())
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in result.notes)
    verdict = (
        problems(result.problems, text=text) or '<p role="status" class="fine">✓ This merge can be carried out.</p>'
    )
    return f"{verdict}<dl class='facts'>{facts}</dl>" + (f"<h3>Good to know</h3><ul>{notes}</ul>" if notes else "")


def merged(made: Merge) -> str:
    """That a merge is done, and what came out."""
    output = made.manifest["output"]
    warnings = "".join(f"<li>{html.escape(note.replace('`', ''))}</li>" for note in made.notes)
    return (
        f'<p role="status"><span class="fine">✓ {html.escape(made.title)} is done</span> in {made.seconds:.1f} s: '
        f"{len(made.tensors) or output['tensors']} tensors merged, {', '.join(map(html.escape, output['dtypes']))}. "
        "Below: what it did.</p>" + (f"<ul>{warnings}</ul>" if warnings else "")
    )


def look(made: Merge | None) -> str:
    """All pictures of a merge."""
    if made is None:
        return "<p>Nothing is merged yet. Press Merge above.</p>"
    found = [*radar.charts_of(made.manifest.get("evaluation")), *charts.charts_of(made)]
    if not found:
        return "<p>This merge has no base model, so there are no changes from one to look at.</p>"
    pictures = "".join(figures.figure(chart, made.number) for chart in found)
    return f'<div class="charts" aria-label="{html.escape(made.title)}">{pictures}</div>'


def answers(said: Mapping[str, str], marks: Mapping[str, str], done: bool) -> str:
    """Answers side by side."""
    cards = []
    for label, text in said.items():
        mark = f'<span class="mark">{html.escape(marks[label])}</span>' if label in marks else ""
        body = html.escape(text) or ("(no answer)" if done else "…")
        kind = "answer merged" if label == "merged" else "answer"
        cards.append(f'<section class="{kind}"><h3>{html.escape(label)}{mark}</h3><p>{body}</p></section>')
    state = "Answers are complete." if done else "Answering ..."
    return f'<p role="status" aria-live="polite">{state}</p><div class="answers">{"".join(cards)}</div>'


def compare(visit: Visit) -> str:
    """The merges of this visit, beside each other."""
    if len(visit.merges) < 2:
        count = "One merge" if visit.merges else "No merge"
        return (
            f"<p>{count} so far. Change the recipe and merge again: up to {MOST_MERGES} are kept until you leave, and "
            "stand here beside each other.</p>"
        )
    header, rows = ["", *(merge.title for merge in visit.merges)], []
    roles = list(dict.fromkeys(role for merge in visit.merges for role in merge.roles))
    rows.append(("parameters", *(_parameters(merge) for merge in visit.merges)))
    found = [_figures(merge) for merge in visit.merges]
    for name in ("size of the change", *(f"cosine with {role}" for role in roles), "sign conflict", "survived storage"):
        rows.append((name, *(each.get(name, "-") for each in found)))
    return figures.table(header, rows, "Merges of this visit")


def _figures(merge: Merge) -> dict[str, float]:
    tensors = [each for each in merge.tensors if len(each.gram) == len(merge.roles) + 1]
    if not tensors:
        return {}
    found = {"size of the change": charts.norms_of(tensors)[-1], "survived storage": charts.survived_of(tensors)}
    cosines = charts.cosines_of(tensors)[-1]
    found |= {f"cosine with {role}": cosine for role, cosine in zip(merge.roles, cosines, strict=False)}
    conflict = charts.conflict_of(tensors)
    return found | ({} if conflict is None else {"sign conflict": conflict})


def _parameters(merge: Merge) -> str:
    given = merge.data.get("parameters") or {}
    return ", ".join(f"{name} {value}" for name, value in given.items())[:80] or "defaults"


def chart(found: Chart, number: int | str) -> str:
    """One picture alone."""
    return f'<div class="charts">{figures.figure(found, number)}</div>'


def note(text: str) -> str:
    """A line of text."""
    return f'<p role="status">{html.escape(text)}</p>'


def link(code: str) -> str:
    """A link that holds a recipe."""
    if not code:
        return note("This recipe is too long for a link; download it from the editor instead.")
    return (
        f'<p role="status"><a href="?recipe={html.escape(code)}">This link</a> holds the recipe: copy its address.</p>'
    )


def no_login() -> str:
    """Why there is no button to log in."""
    return (
        '<div class="banner"><b>Publishing needs a login,</b> which a Hugging Face Space offers and this page, as it '
        "runs here, does not: no token is ever typed into it. Download the files below the card and run "
        "<code>hf-merge3h publish FOLDER owner/name</code>, or open this page as a Space and press <i>Sign in with "
        "Hugging Face</i> there.</div>"
    )


def published(repo: str, url: str, notes: Sequence[str]) -> str:
    """Where a merge was published."""
    listed = "".join(f"<li>{html.escape(each)}</li>" for each in notes)
    where = f'<a href="{html.escape(url)}">{html.escape(repo)}</a>' if url.startswith("http") else html.escape(repo)
    return f'<p role="status"><span class="fine">✓ Published</span> as {where}.</p><ul>{listed}</ul>'
