"""The report as one page: no script, nothing fetched, all text of models escaped, light and dark."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from .plot import draw
from .text import headline, notes, tables

if TYPE_CHECKING:
    from .report import Report

_SHOWN = 50  # flips of one way that the page shows whole; the items' files have them all
_LONG = 1500  # characters of a text that the page shows
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --ink: #202020; --paper: #fff; --faint: #ccc; --quiet: #5a5a5a; --warn: #fff3e0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #16181d; --faint: #454a55; --quiet: #aeb4bf;
    --warn: #3a2a12; }
  .light { display: none }
}
@media not (prefers-color-scheme: dark) { .dark { display: none } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 75rem;
  margin: 2rem auto; padding: 0 1rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .875rem }
th, td { border-bottom: 1px solid var(--faint); padding: .3rem .45rem; text-align: left; vertical-align: top }
.worse { background: var(--warn); padding: .6rem 1rem; border-left: 4px solid #d55e00 }
img { max-width: 100%; height: auto }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; margin: 0 }
.notes { color: var(--quiet); font-size: .9rem } summary { cursor: pointer; margin: .4rem 0 }
"""


def page(report: Report) -> str:
    """The whole page."""
    title = f"3H evaluation: {report.merged}"
    worse = "".join(f"<li>{escape(line)}</li>" for line in headline(report))
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<section class="worse"><h2>What got worse</h2><ul>{worse}</ul></section>',
        _pictures(report),
        *(_table(heading, rows) for heading, rows in tables(report)),
        _flips(report),
        f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in notes(report))}</ul>',
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body>\n</html>\n"
    )


def _pictures(report: Report) -> str:
    found = []
    for theme in ("light", "dark"):
        picture = io.BytesIO()
        try:
            draw(report, dark=theme == "dark", kind=None).savefig(picture, format="png")
        except RequestError:
            return ""
        data = base64.b64encode(picture.getvalue()).decode()
        said = "Radar, refusals of safe and unsafe prompts, what each expert changes; the tables hold the numbers"
        found.append(f'<img class="{theme}" alt="{said}" src="data:image/png;base64,{data}">')
    return f"<p>{''.join(found)}</p>"


def _table(title: str, rows: list[list[str]]) -> str:
    head, *body = rows
    columns = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in body)
    return (
        f'<h2>{escape(title)}</h2><div class="wide" tabindex="0" role="region" aria-label="{escape(title)}">'
        f"<table><thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    shown = escape(text)
    return f"<td>{shown.replace(', ', ',&nbsp;') if text.endswith(']') else shown}</td>"  # intervals on one line


def _flips(report: Report) -> str:
    parts = []
    for name in report.facts["datasets"]:
        for other in report.models:
            found = report.flips(name, other) if other != report.merged else {}
            for way, items in found.items():
                if items:
                    shown = "".join(_flip(item) for item in items[:_SHOWN])
                    more = (
                        f"<p>... and {len(items) - _SHOWN} more in the items' files</p>" if len(items) > _SHOWN else ""
                    )
                    heading = f"{name}, {other} to {report.merged}: {len(items)} from {way}"
                    parts.append(f"<details><summary>{escape(heading)}</summary>{shown}{more}</details>")
    return "<h2>Items whose verdict changed</h2>" + "".join(parts) if parts else ""


def _flip(item: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(model)}</th><td><pre>{escape(_cut(said))}</pre></td></tr>'
        for model, said in item["answers"].items()
    )
    asked = f'<tr><th scope="row">question</th><td><pre>{escape(_cut(item["question"]))}</pre></td></tr>'
    return f'<div class="wide"><table>{asked}{rows}</table></div>'


def _cut(said: Any) -> str:
    text = said if isinstance(said, str) else "\n---\n".join(map(str, said or ()))
    return text if len(text) <= _LONG else f"{text[:_LONG]} ... ({len(text)} characters)"
