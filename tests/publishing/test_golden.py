"""The cards in model_cards/, and those of the demo's experts: what stands there is what comes out."""

import json
import re
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from hf_merge3h import demo
from hf_merge3h.manifest import FILE, load_manifest
from hf_merge3h.publishing import metadata
from hf_merge3h.publishing.card import ORDER, PICTURES, make_card
from hf_merge3h.publishing.facts import facts_of

HERE = Path(__file__).parents[2] / "model_cards"
CARDS = sorted(each.parent for each in HERE.glob("*/README.md"))
EXPECTED = {
    "r-tsvm-three-adapters", "ties-full-weights", "adapters-licence-conflict", "linear-not-evaluated",
    "passthrough-stack",
}  # fmt: skip


def _front(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_all_are_there():
    assert {each.name for each in CARDS} == EXPECTED
    listed = (HERE / "README.md").read_text()
    for name in EXPECTED:
        assert f"({name}/README.md)" in listed


@pytest.mark.parametrize("folder", CARDS, ids=lambda each: each.name)
def test_the_card_is_that_of_its_manifest(folder):
    text = (folder / "README.md").read_text()
    shown = all((folder / each).exists() for each in PICTURES)
    assert make_card(load_manifest(folder), name=folder.name, picture=shown) == text
    assert re.findall(r"<!-- merge3h:(\w+) -->", text) == list(ORDER)
    assert metadata.problems(_front(text)) == []
    for place in ("/tmp", "/home", "/root", "/work"):
        assert place not in text + (folder / FILE).read_text()
    html = MarkdownIt("commonmark").enable("table").render(text.split("---\n", 2)[2])
    assert html.count("<table>") >= 1


def test_what_each_is_there_for():
    text = {each.name: (each / "README.md").read_text() for each in CARDS}
    assert "reconstruction" in text["r-tsvm-three-adapters"]
    head = f"| H | data set and figure | n | merged | base | {' | '.join(demo.ROLES.values())} |"
    assert head in text["r-tsvm-three-adapters"]  # a column of figures each
    assert "helpful (helpfulness), honest (honesty) and harmless (harmlessness)" in text["r-tsvm-three-adapters"]
    same = "The same in every block: conflict 75 % and survived 100.0 %."
    assert same in text["r-tsvm-three-adapters"]
    assert "| cosine | survived |" in text["ties-full-weights"]  # stored as bfloat16: each block its own share
    assert "Not asked, because an expert was trained on the question: 45 of truthfulqa" in text["r-tsvm-three-adapters"]
    for name in ("r-tsvm-three-adapters", "adapters-licence-conflict", "linear-not-evaluated"):
        assert _front(text[name])["base_model"] == [demo.BASE_MODEL_ID]
    assert "**Conflict: a person has to decide.**" in text["adapters-licence-conflict"]
    assert "license:" not in text["adapters-licence-conflict"].split("---\n")[1]
    assert "**Not evaluated.**" in text["linear-not-evaluated"]
    assert "layer_range" in text["passthrough-stack"]
    for name in EXPECTED - {"adapters-licence-conflict"}:
        assert _front(text[name])["license"] == "apache-2.0"


def test_a_merge_of_today_has_the_card_of_that_day(tmp_path):
    """The average of the experts, made again: the same card but for numbers and versions."""
    import sys

    sys.path.insert(0, str(HERE))
    try:
        import make
    finally:
        sys.path.remove(str(HERE))
    out = tmp_path / "linear-not-evaluated"
    make.linear_not_evaluated(out)
    text = make_card(load_manifest(out), name=out.name, picture=True)
    kept = (HERE / "linear-not-evaluated" / "README.md").read_text()
    assert _without_numbers(text) == _without_numbers(kept)
    new, old = (facts_of(load_manifest(each)).diagnostics[0]["total"] for each in (out, HERE / "linear-not-evaluated"))
    assert new["norms"] == pytest.approx(old["norms"], rel=1e-4)
    assert new["merged_norm"] == pytest.approx(old["merged_norm"], rel=1e-4)


def _without_numbers(text):
    return re.sub(r"torch \S+|transformers \S+|peft \S+|[-+\u2212]?\d+(\.\d+)*", "#", text)


@pytest.mark.parametrize("folder", demo.expert_paths().values(), ids=lambda each: each.name)
def test_the_demos_experts_have_cards_of_their_own(folder):
    text = (folder / "README.md").read_text()
    data = _front(text)
    assert metadata.problems(data) == []
    assert (data["license"], data["base_model"], data["base_model_relation"]) == (
        "apache-2.0", "HuggingFaceTB/SmolLM2-135M-Instruct", "adapter",
    )  # fmt: skip
    for said in ("**Data**", "**Training**", "**Held out**", "**Limits**", "loss-light.png", "loss-dark.png"):
        assert said in text
    for name in ("loss-light.png", "loss-dark.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    sources = json.loads((folder / "training.json").read_text())["sources"]
    for each in sources:
        assert each["licence"] in text
