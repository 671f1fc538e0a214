"""What is known of each method, as plain data, as Markdown and as text: all of it from the registry's records.

`python -m hf_merge3h.catalogue` writes the tables of README.md and docs/METHODS.md; tests hold them to the registry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .registry import LAWS, Method, list_methods
from .schema import Parameter

#: In README.md the table stands between these two lines.
BEGIN, END = "<!-- methods, written by `make docs` -->", "<!-- end of methods -->"

_SECTION = re.compile(r"^([A-Z][a-z]+):\n", re.MULTILINE)


def paper_url(paper: str) -> str:
    """A link to a paper, or nothing where the record names none.

    >>> paper_url("arXiv:2306.01708")
    'https://arxiv.org/abs/2306.01708'
    """
    scheme, _, identifier = paper.partition(":")
    if scheme.lower() == "arxiv":
        return f"https://arxiv.org/abs/{identifier.strip()}"
    if scheme.lower() == "doi":
        return f"https://doi.org/{identifier.strip()}"
    return paper if scheme in ("http", "https") else ""


def facts(method: Method) -> dict[str, Any]:
    """All of a method's record that a user may want, as data that JSON can hold."""
    low, high = method.experts
    return {
        "name": method.name,
        "aliases": list(method.aliases),
        "title": method.title,
        "shown_title": method.shown_title,
        "family": method.family,
        "space": method.space,
        "summary": method.summary,
        "description": method.description,
        "paper": method.paper,
        "paper_url": paper_url(method.paper),
        "reconstruction": method.reconstruction,
        "experts": {"least": low, "most": high},
        "weights": _weights(method),
        "matrix_only": method.matrix_only,
        "random": method.random,
        "low_rank": _low_rank(method),
        "parameters": [_parameter_facts(parameter) for parameter in method.parameters],
        "laws": list(method.laws),
        "exempt": dict(method.exempt),
    }


def markdown_table(methods: Iterable[Method]) -> str:
    """The table of README.md: one line a method, and beneath it what must be said of a reconstruction."""
    methods = list(methods)
    rows = [
        (
            " or ".join(f"`{name}`" for name in (method.name, *method.aliases)),
            method.shown_title,
            method.family,
            _works_on(method),
            _low_rank(method),
            _link(method),
        )
        for method in methods
    ]
    lines = _markdown(("`method=`", "what", "family", "works on", "adapters stay factors", "paper"), rows)
    notes = [f"`{method.name}`. {method.reconstruction}" for method in methods if method.reconstruction]
    return "\n".join([*lines, *(line for note in notes for line in ("", note))])


def markdown_page(methods: Iterable[Method]) -> str:
    """The whole of docs/METHODS.md."""
    lines = [
        "# The methods and their parameters",
        "",
        "Written by `make docs` from the registry; `hf-merge3h methods NAME` shows the same.",
        "",
        "A law is a property that the tests check for every method; a method that does not obey one says why.",
        "",
        *_markdown(("law", "says"), [(name, text) for name, text in LAWS.items()]),
    ]
    for method in methods:
        lines += ["", *_markdown_method(method)]
    return "\n".join(lines) + "\n"


def _markdown_method(method: Method) -> Iterator[str]:
    aliases = f" (alias {', '.join(f'`{alias}`' for alias in method.aliases)})" if method.aliases else ""
    yield from (f"## `{method.name}`{aliases}", "", f"**{method.shown_title}**, {_link(method)}. {method.summary}")
    if method.reconstruction:
        yield from ("", f"**{method.reconstruction}**")
    body = formula(method)
    if body:
        yield from ("", "```text", body, "```")
    yield ""
    yield f"Works on {_works_on(method)}. Experts: {_experts(method)}. Weights: {_weights(method)}."
    yield f"Adapters stay factors: {_low_rank(method)}."
    if notes(method):
        yield from ("", f"Note: {notes(method)}")
    if method.parameters:
        rows = [(f"`{each.name}`", f"`{each.default}`", each.expected, each.help) for each in method.parameters]
        yield from ("", *_markdown(("parameter", "default", "takes", "meaning"), rows))
    yield from ("", f"Laws: {', '.join(method.laws)}.")
    if method.exempt:
        yield from ("", *(f"- not *{law}*: {reason}" for law, reason in method.exempt.items()))


def text_table(methods: Iterable[Method]) -> str:
    """One line a method, for a terminal."""
    rows = [
        (method.name, ", ".join(method.aliases), method.shown_title, method.family, method.space, method.paper)
        for method in methods
    ]
    return "\n".join(_columns(("name", "aliases", "title", "family", "space", "paper"), rows))


def text_page(method: Method) -> str:
    """All about one method, for a terminal."""
    names = " = ".join((method.name, *method.aliases))
    lines = [f"{names}: {method.shown_title}", "", method.summary]
    if method.reconstruction:
        lines += ["", method.reconstruction]
    if formula(method):
        lines += ["", *_indented(formula(method).splitlines())]
    lines += ["", f"paper      {method.paper}  {paper_url(method.paper)}".rstrip(), f"family     {method.family}"]
    lines.append(f"space      {method.space}: works on {_works_on(method)}")
    lines.append(f"experts    {_experts(method)}")
    lines.append(f"weights    {_weights(method)}")
    lines.append(f"low rank   {_low_rank(method)}")
    lines += ["", "Parameters" + ("" if method.parameters else ": none")]
    for parameter in method.parameters:
        lines.append(f"  {parameter.name} = {parameter.default}: {parameter.expected}")
        lines += [f"      {parameter.help}"] if parameter.help else []
    lines += ["", "Laws", *_indented(_columns(None, [(law, LAWS[law]) for law in method.laws]))]
    if method.exempt:
        lines += ["", "Laws it does not obey", *_indented(_columns(None, list(method.exempt.items())))]
    if notes(method):
        lines += ["", f"Note: {notes(method)}"]
    return "\n".join(lines)


def formula(method: Method) -> str:
    """What a docstring says between its first line and its sections."""
    _, _, rest = method.description.partition("\n")
    return _SECTION.split(rest, maxsplit=1)[0].strip("\n").rstrip()


def notes(method: Method) -> str:
    """What a docstring says under `Note:` and `Warning:`, as one paragraph."""
    _, *parts = _SECTION.split(method.description)
    told = [text for name, text in zip(parts[::2], parts[1::2], strict=True) if name in ("Note", "Warning")]
    return re.sub(r"\s+", " ", " ".join(told)).strip()


def _parameter_facts(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "type": parameter.type.__name__,
        "default": parameter.default,
        "range": str(parameter.range) if parameter.range else None,
        "choices": list(parameter.choices),
        "per_expert": parameter.per_expert,
        "optional": parameter.optional,
        "expected": parameter.expected,
        "help": parameter.help,
    }


def _experts(method: Method) -> str:
    low, high = method.experts
    if high is None:
        return f"{low} or more"
    return f"exactly {low}" if low == high else f"{low} to {high}"


def _weights(method: Method) -> str:
    if not method.weighted:
        return "all equal (the formula names none)"
    return "one for each expert, 1/T by default" if method.unit_weights else "one for each expert, 1 by default"


def _works_on(method: Method) -> str:
    if method.matrix_only:
        return "matrices (the rest is averaged)"
    if method.space == "weight":
        return "weights or task vectors" if method.delta_form else "weights"
    return "task vectors or weights" if method.weight_form else "task vectors"


def _low_rank(method: Method) -> str:
    if method.low_rank is None:
        return "no"
    return "yes" if method.low_rank_when is None else "with some parameters"


def _link(method: Method) -> str:
    url = paper_url(method.paper)
    return f"[{method.paper.removeprefix('https://')}]({url})" if url else method.paper


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(re.sub(r"\s+", " ", cell).replace("|", r"\|") for cell in cells) + " |"

    return [line(head), line("---" for _ in head), *(line(row) for row in rows)]


def _columns(head: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> list[str]:
    table = [*([head] if head else []), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))] if table else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _indented(lines: Iterable[str]) -> list[str]:
    return ["  " + line for line in lines]


def write(root: Path) -> None:
    """Bring README.md and docs/METHODS.md under `root` in line with the registry."""
    methods = list_methods()
    readme = root / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), methods), encoding="utf-8")
    (root / "docs" / "METHODS.md").write_text(markdown_page(methods), encoding="utf-8")


def with_table(readme: str, methods: Iterable[Method]) -> str:
    """The text of README.md with a fresh table between its markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md: expected the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{markdown_table(methods)}\n{END}{after}"


if __name__ == "__main__":
    write(Path(__file__).resolve().parent.parent)
