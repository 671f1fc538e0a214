"""Records of runs: what is none is refused, and the numbers in docs are those of the ones that are kept."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import fmean

import pytest

from hf_merge3h.errors import SourceError
from hf_merge3h.lab.comparison.findings import Findings
from hf_merge3h.lab.comparison.records import Records

DOCS = Path(__file__).parents[3] / "docs"
PLACES = (3, 3, 2, 2, 2)  # decimals of the data sets, in the tables' order


@pytest.mark.parametrize(
    ("file", "place", "split", "page", "title"),
    [
        ("one", "static/full", "test", "LAB.md", "### Whole fine-tunes, static"),
        ("one", "continual/full/checkpoints", "test", "LAB.md", "### Whole fine-tunes, continual"),
        ("one", "continual/full/stages", "test", "LAB.md", "And the *stages*' differences"),
        ("one", "static/lora", "test", "LAB.md", "### Adapters, static"),
        ("one", "static/full", "development", "LAB.md", "### The ablation"),
        ("one-tuned", "static/full", "test", "LAB.md", "### Each method's own scale"),
        ("whole-3", "static/full", "test", "LAB_EARLIER.md", "## Whole fine-tunes, static"),
        ("whole-3", "static/full", "development", "LAB_EARLIER.md", "## The ablation"),
        ("whole-4", "static/full", "development", "LAB_EARLIER.md", "## Whole fine-tunes: WUDI with a ridge"),
        ("whole-4", "static/full", "test", "LAB_EARLIER.md", "**Test split**, once:"),
        ("lora-2", "static/lora", "test", "LAB_EARLIER.md", "## Adapters, static"),
        ("lora-1", "static/lora", "development", "LAB_EARLIER.md", "## Adapters: the ablation"),
        ("lora-3", "static/lora", "test", "LAB_EARLIER.md", "## Adapters beside mixtures"),
        ("tuned", "static/given", "test", "LAB_EARLIER.md", "## Each method's own scale"),
        ("gemma", "static/lora", "test", "LAB.md", "### Gemma 3 270M, adapters"),
        ("whole-2", "static/full", "test", "LAB_EARLIER.md", "## Whole fine-tunes, all three H's"),
        ("whole", "static/full", "test", "LAB_EARLIER.md", "## Whole fine-tunes, the first run"),
        ("whole", "static/full", "development", "LAB_EARLIER.md", "## Whole fine-tunes: the ablation"),
    ],
)
def test_the_tables_are_those_of_the_records(file, place, split, page, title):
    arenas = Findings.of(Records.read(DOCS / "lab" / f"{file}.json.gz")).arenas
    models = {(arena.place, arena.split): arena for arena in arenas}[place, split].models
    level = title.split()[0]
    text = (DOCS / page).read_text(encoding="utf-8").split(title, 1)[1].split(f"\n{level} ", 1)[0]
    table = text.split("| recovery of helpfulness", 1)[1].split("\n\n", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert len(rows) == len(models)
    for name, *cells in rows:
        label = re.sub(r"`| \(reconstruction\)", "", name).replace("mixture, ", "mix: ")
        means = [fmean(values.values()) for values in models[label].values()]
        assert cells[:5] == [f"{mean:.{places}f}" for mean, places in zip(means, PLACES, strict=True)], label


def test_what_is_said_of_ifeval_is_in_its_records():
    (arena,) = Findings.of(Records.read(DOCS / "lab" / "one-ifeval.json.gz")).arenas
    text = (DOCS / "LAB.md").read_text(encoding="utf-8").split("### IFEval", 1)[1]
    table = text.split("| --- | --- |\n", 1)[1].split("\n\n", 1)[0]
    for model, line in zip(arena.models, table.splitlines(), strict=True):
        assert line.endswith("| {value:.3f} [{low:.2f}, {high:.2f}] |".format(**arena.figures(model)["ifeval"]))
        assert model.removeprefix("mix: ") in line


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"schema": 99}', b"\x1f\x8bno"])
def test_what_is_no_records_is_refused(content, tmp_path):
    file = tmp_path / "records.json"
    file.write_bytes(content)
    with pytest.raises(SourceError, match=r"records\.json"):
        Records.read(file)
