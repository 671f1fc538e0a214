"""A picture as the page shows it: with a caption that says how to read it, the table behind it, and downloads."""

from __future__ import annotations

import base64
import csv
import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drawing import COLOURS

_DIGITS = 4


@dataclass(frozen=True)
class Chart:
    """A picture (SVG with stand-in colours), how to read it, and the numbers behind it."""

    name: str
    title: str
    caption: str
    svg: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def figure(chart: Chart, number: int | str) -> str:
    """A chart as HTML: picture, caption, the table behind it, downloads."""
    inside, alone = chart.svg, chart.svg
    for stand_in, (variable, colour) in COLOURS.items():
        inside, alone = inside.replace(stand_in, variable), alone.replace(stand_in, colour)
    # ids of one picture must not be those of another
    inside = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{chart.name}-{number}-", inside)
    inside = inside.replace("<svg ", f'<svg role="img" aria-label="{html.escape(chart.title)}" ', 1)
    name = f"merge3h_{number}_{chart.name}"
    return (
        f'<figure class="chart"><h3>{html.escape(chart.title)}</h3>{inside}'
        f"<figcaption>{html.escape(chart.caption)}</figcaption>"
        f"<details><summary>Table: {html.escape(chart.title)}</summary>{table(chart.header, chart.rows)}</details>"
        f'<p class="downloads">{_download("SVG", alone, "image/svg+xml", f"{name}.svg")}'
        f"{_download('CSV', _csv(chart), 'text/csv', f'{name}.csv')}</p></figure>"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    """An HTML table; texts are escaped."""
    head = "".join(f'<th scope="col">{html.escape(str(each))}</th>' for each in header)
    body = "".join(
        "<tr>"
        + f'<th scope="row">{_cell(row[0])}</th>'
        + "".join(f"<td>{_cell(each)}</td>" for each in row[1:])
        + "</tr>"
        for row in rows
    )
    label = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    inside = f"<table>{label}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="table">{inside}</div>'


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.{_DIGITS}g}"
    return html.escape(str(value))


def _csv(chart: Chart) -> str:
    target = io.StringIO()
    csv.writer(target).writerows([chart.header, *chart.rows])
    return target.getvalue()


def _download(label: str, text: str, mime: str, name: str) -> str:
    data = base64.b64encode(text.encode()).decode()
    return f'<a class="download" download="{html.escape(name)}" href="data:{mime};base64,{data}">Download {label}</a>'
