import json
import re

import pytest
from markdown_it import MarkdownIt

from hf_merge3h.errors import SourceError
from hf_merge3h.manifest import FILE, Manifest, load_manifest
from hf_merge3h.publishing import metadata as meta
from hf_merge3h.publishing import picture, tables
from hf_merge3h.publishing.card import ORDER, PICTURES, make_card, write_card
from hf_merge3h.publishing.facts import facts_of
from tests.publishing.manifests import ROLES, SHA, block, card_of, content, dataset, evaluation, front_of

EVIL = "<script>alert(1)</script>"


def _html(text):
    """As the Hub renders it, with raw HTML let through: the strictest test of escaping."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2])


def test_every_section_is_there():
    text = card_of(content(evaluation=evaluation()))
    assert re.findall(r"<!-- merge3h:(\w+) -->", text) == list(ORDER)
    for said in (
        "R-TSVM (RESM) of helpfulness, honesty and harmlessness", "A reconstruction", "apply_chat_template",
        "**Where the merge is worse**", "Not evaluated:", "no judge was given", "merge_method: r_tsvm",
        f"me/honesty@{SHA['honesty']}", "`model.layers.0`", "**whole model**", "`apache-2.0`", "not legal advice",
        "https://arxiv.org/abs/2502.06876", "Warning: something to know", "No training",
    ):  # fmt: skip
        assert said in text, said


def test_regressions_come_first():
    better = dataset("Fine", paired=[])
    text = card_of(content(evaluation=evaluation(datasets=[better, dataset()])))
    assert "Worse than a parent in 1 of 2 comparisons" in text
    results = text.partition("## Results")[2]
    assert results.index("| GSM8K") < results.index("| Fine")
    assert results.index("**worse**") < results.index("| better |")
    assert "No data set of this evaluation measures honesty and harmlessness" in results


def test_what_an_evaluation_really_looks_like():
    """Dimensions are finer than the H, dates have a time, samples come from packages, and are small."""
    made = dataset(
        "safe_lookalikes", dataset_id="safe_lookalikes.jsonl", dataset_revision="0.3.3", dimension="over_refusal",
        h="harmlessness", metric="refusal_rate", key="over_refusal_rate", direction="lower", n=12, paired=[],
    )  # fmt: skip
    text = card_of(content(evaluation=evaluation(datasets=[made], date="2026-11-26T17:37:15+00:00")))
    assert "No data set of this evaluation measures helpfulness and honesty." in text
    assert "Suite `quick`, 2026-11-26. Judge" in text
    assert ": over refusal rate ↓ | 12 |" in text
    assert "nothing got worse beyond chance, on as few as 12 questions each" in text
    told = front_of(text)["model-index"][0]["results"][0]["dataset"]
    assert told == {"name": "safe_lookalikes", "type": "safe_lookalikes", "split": "test"}
    large = evaluation(datasets=[dataset(paired=[])])
    assert "as few as" not in card_of(content(evaluation=large))


def test_values_that_all_agree_have_no_interval():
    made = dataset(title="GSM8K problems")
    made["values"]["merged"].update(value=1.0, low=None, high=None)
    made["paired"][0].update(low=None, high=None)
    results = card_of(content(evaluation=evaluation(datasets=[made]))).partition("## Results")[2].partition("## ")[0]
    assert "| **1.000** | 0.250 [0.200, 0.300] |" in results
    assert re.search(r"\| GSM8K problems \| base \| [a-z ]+ \| \+0.250 \|", results)
    assert "not recorded" not in results


def test_what_is_missing_reads_not_recorded():
    made = content(diagnostics="not recorded")
    del made["method"], made["made_by"]
    for each in made["models"]:
        each["commit"] = None
        each["source"] = "/home/me/secret/place/honest"
        each["hashes"] = "not recorded"
        del each["card"]
    made["output"]["hashes"] = "not recorded"
    text = card_of(made)
    assert "Diagnostics: not recorded" in text
    assert "The licence of a parent is not recorded" in text
    assert "| not recorded |" in text
    assert "/home/me" not in text
    assert "base_model" not in front_of(text)


HOSTILE = [
    EVIL, "</code><img src=x onerror=alert(1)>", "```\n<script>x</script>\n```", "`" * 7 + EVIL, "| a | b |\n|---|---|",
    "\n---\nlicense: mit\n---\n", "<!-- /merge3h:summary -->", "\n<!-- /merge3h:recipe -->\n" + EVIL, "--> " + EVIL,
    "[x](javascript:alert(1))", "![x](https://evil.example/x.png)", "$$\\def\\x{" + EVIL + "}$$", "a: b\n- c: &x *x",
    "\x00\u202e\u2028" + EVIL, "{{ 7 * 7 }}{% for x in y %}", "../../../etc/passwd", "# Heading\n\n> quote",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_escaped_everywhere(text):
    made = content(evaluation=evaluation())
    poisoned = _poison(made, text)
    shown = card_of(poisoned, name=text, place=text)
    html = _html(shown)
    assert "<script" not in html.replace("&lt;script", "")
    assert "<img" not in html
    assert "javascript:" not in "".join(re.findall(r'(?:href|src)="([^"]*)"', html))
    assert "onerror" not in "".join(re.findall(r"<[^>]*>", html))
    assert html.count("<h2>") == 8  # the eight sections after the title, and no more
    assert set(front_of(shown)) <= {*meta.KEYS}
    assert meta.problems(front_of(shown)) == []
    assert make_card(Manifest(poisoned), name=text, place=text, old=shown) == shown  # the markers still pair


def _poison(value, text):
    """The text in every place where a manifest holds one, save those that say what kind of thing it is."""
    kept = {"kind", "made_by", "direction", "better", "merged", "base"}
    if isinstance(value, dict):
        return {
            key: each if key in kept and isinstance(each, str) else _poison(each, text) for key, each in value.items()
        }
    if isinstance(value, list):
        return [_poison(each, text) for each in value]
    return text if isinstance(value, str) and not re.fullmatch(r"[0-9a-f]{40,64}", value) else value


@pytest.mark.pictures
def test_a_card_beside_its_manifest(tmp_path):
    Manifest(content(evaluation=evaluation())).save(tmp_path)
    path = write_card(tmp_path)
    assert path == tmp_path / "README.md"
    text = path.read_text()
    for name in PICTURES:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert name in text
    write_card(tmp_path)
    assert path.read_text() == text
    path.write_text(f"{text}\nMine.\n")
    made = content(warnings=["another"])
    Manifest(made).save(tmp_path)
    assert "Mine.\n" in write_card(tmp_path).read_text()
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["README.md", FILE, *PICTURES])


@pytest.mark.pictures
def test_both_pictures_of_one_figure_are_as_if_each_were_drawn_for_itself(tmp_path):
    made = Manifest(content())
    picture.draw_pair(made, tmp_path)
    party = max(facts_of(made).diagnostics, key=lambda each: each["total"]["numbers"])
    told = party["roles"], party["blocks"], party["total"]
    dtype = ", ".join(made.content["output"]["dtypes"])
    for name, dark in zip(PICTURES, (False, True), strict=True):
        alone = picture.draw(made.content["method"]["title"], *told, dtype, dark=dark)
        alone.savefig(tmp_path / "alone.png", metadata={"Software": None})
        assert (tmp_path / name).read_bytes() == (tmp_path / "alone.png").read_bytes()
    assert (tmp_path / PICTURES[0]).read_bytes() != (tmp_path / PICTURES[1]).read_bytes()


def test_a_card_that_cannot_be_told_stays_as_it_is(tmp_path):
    Manifest(content()).save(tmp_path)
    (tmp_path / "README.md").write_text("<!-- merge3h:use -->\n")
    with pytest.raises(SourceError, match="do not pair"):
        write_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == "<!-- merge3h:use -->\n"
    (tmp_path / "README.md").write_bytes(b"\xff")
    with pytest.raises(SourceError, match="UTF-8"):
        write_card(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": "x"}, "models='x': expected array"),
        ({"models": [{}]}, r"models\[0\]: lacks given"),
        ({"seed": True}, "seed=True: expected integer"),
        ({"warnings": ["x" * 100_000_000]}, "100,000,000 characters"),
        ({"recipe": {"given": {}, "label": "x", "resolved": [{"method": 7}]}}, r"resolved\[0\]"),
        ({"output": {"tensors": 1, "bytes": 1, "dtypes": [], "layers": 1, "hashes": {"a": "zz"}}}, "hashes"),
        ({"diagnostics": [{"roles": [], "total": {}, "blocks": []}]}, "lacks name"),
        ({"kind": EVIL}, "kind="),
        ({"evaluation": {"suite": "x"}}, "evaluation: lacks date"),
        ({"evaluation": evaluation(datasets=[dataset(h="beauty")])}, r"datasets\[0\].h='beauty'"),
        ({"evaluation": evaluation(datasets=[dataset(values={"merged": {"value": "x"}})])}, "values.merged: lacks"),
        ({"schema_version": 2}, "pip install"),
    ],
)
def test_manifests_that_are_none(tmp_path, change, said):
    made = content(**change)
    (tmp_path / FILE).write_text(json.dumps(made))
    with pytest.raises(SourceError, match=said) as caught:
        load_manifest(tmp_path)
    assert len(str(caught.value)) < 2000


def test_a_truncated_manifest(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(content())[:-100])
    with pytest.raises(SourceError, match="no JSON"):
        load_manifest(tmp_path)


def test_deep_models_show_the_ends(tmp_path):
    party = {"roles": list(ROLES), "total": block("whole model"), "blocks": [block(f"layer.{n}") for n in range(80)]}
    text = card_of(content(diagnostics=[party]))
    assert "… 56 more" in text
    assert "`layer.79`" in text


def test_tables_leave_out_what_every_row_says_and_what_no_interval_has_use_for():
    results = card_of(content(evaluation=evaluation(datasets=[dataset(title="Sums")]))).partition("## Results")[2]
    assert re.search(r"\| \*\*\d\.\d{3}\*\*", results)  # at least one interval narrower than 0.1
    wide = dataset(title="Sums")
    for each in wide["values"].values():
        each.update(value=0.5, low=0.3, high=0.7)
    results = card_of(content(evaluation=evaluation(datasets=[wide]))).partition("## Results")[2]
    assert "| **0.50** [0.30, 0.70] |" in results
    assert tables._own_names(["model.layers.0", "model.layers.1"]) == {
        "model.layers.0": "layers.0", "model.layers.1": "layers.1",
    }  # fmt: skip
    assert tables._own_names(["model.layers.0", "lm_head"]) == {
        "model.layers.0": "model.layers.0",
        "lm_head": "lm_head",
    }
    assert tables._own_names([]) == {}
