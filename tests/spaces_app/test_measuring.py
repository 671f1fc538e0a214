"""The quick evaluation: within its time, in the manifest and the card, and drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import actions
import measuring
import pytest
import radar
import views
from editing import RefusedError

import hf_merge3h
from tests.publishing.manifests import dataset, evaluation
from tests.spaces_app.test_actions import made, teller  # noqa: F401 - fixtures

H = ("helpfulness", "honesty", "harmlessness")


def found(names=("base", *H, "merged"), hs=H):
    """An evaluation of all speakers, as the library gives it."""
    value = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 12}
    values = {name: {**value, "value": 0.1 + 0.15 * place} for place, name in enumerate(names)}
    sets = [dataset(h, title=f"Set of {h}", h=h, dimension=h, values=values, paired=[], n=12) for h in hs]
    return evaluation(
        datasets=sets, experts=dict(zip(H, H, strict=True)), summary={"h": dict.fromkeys(hs, values)}, not_evaluated=[]
    )


class Told:
    """What `evaluate_3h` returns, as far as it is used."""

    def __init__(self, told):
        self.to_dict = lambda: told


@pytest.mark.parametrize(("first", "limits"), [(5.0, [2, 24]), (30.0, [2, 6]), (90.0, [2]), (500.0, [2])])
def test_it_asks_as_much_as_fits_into_its_time(first, limits, monkeypatch, tmp_path):
    clock, asked = [0.0], []
    monkeypatch.setattr(measuring.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(measuring, "sources", lambda speakers: dict.fromkeys(["base", "merged", "honesty"], "x"))

    def evaluate(models, suite, *, limit, roles, out, **options):
        asked.append(limit)
        assert (suite, roles, out) == ("3h-offline", {"honesty": "honesty"}, tmp_path)
        assert options["skip_unreachable"]
        clock[0] += first * (limit - sum(asked[:-1])) / measuring.FIRST  # what is done is not asked again
        return Told({"limit": limit})

    told = measuring.measure([], tmp_path, lambda share, text: None, seconds=120, evaluate=evaluate)
    assert asked == limits
    assert told == {"limit": limits[-1]}
    assert clock[0] <= max(120, first)


def test_results_go_into_manifest_card_and_pictures(made, visit, teller, monkeypatch):  # noqa: F811
    def measure(speakers, folder, say):
        assert [each.label for each in speakers] == ["base", *H, "merged"]
        return {**found(), "models": {"merged": str(made.folder)}}

    monkeypatch.setattr(measuring, "measure", measure)
    visit.merges.append(made)
    before = {each.name: each.read_bytes() for each in made.folder.iterdir()}
    try:
        measured = actions.evaluate(visit, made, teller)
        assert visit.merges == [measured]
        told = hf_merge3h.load_manifest(made.folder).content["evaluation"]
        assert told["models"]["merged"] == "this merge"
        assert str(made.folder) not in json.dumps(told)
        assert "| helpfulness | Set of helpfulness |" in actions.card_of(measured)
        shown = views.look(measured)
        assert shown.index("Helpful, honest, harmless?") < shown.index("How much each layer changed")
        assert "Helpful, honest, harmless?" not in views.look(made)
    finally:
        visit.merges.clear()
        for name, content in before.items():
            (made.folder / name).write_bytes(content)


def test_what_cannot_be_asked_is_refused(made, visit, teller, monkeypatch):  # noqa: F811
    monkeypatch.setattr(measuring, "MOST_SPOKEN", 1000)
    visit.merges.append(made)
    with pytest.raises(RefusedError, match="of weights are too much"):
        actions.evaluate(visit, made, teller)
    visit.merges.clear()


@pytest.mark.parametrize("hs", [H, H[:2], H[:1]])
def test_the_radar_names_all_models_and_what_is_missing(hs):
    (chart,) = radar.charts_of(found(hs=hs))
    for name in ("base", *H, "merged", *hs):
        assert f">{name}<" in chart.svg
    assert ("Not measured here" in chart.caption) == (len(hs) < 3)
    assert len(chart.rows) == 5 * 2 * len(hs)
    assert {row[0] for row in chart.rows} >= set(hs)
    assert not re.search(r"nan", chart.svg, re.I)


def test_no_evaluation_no_picture():
    assert radar.charts_of(None) == []
    assert radar.charts_of({"datasets": []}) == []


def test_real_models_are_asked(made, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(measuring, "DATASETS", ("safe_lookalikes",))
    speakers = [each for each in actions.speakers(made) if each.label in ("base", "merged")]
    told = measuring.measure(speakers, tmp_path / "items", lambda share, text: None, seconds=0)
    (one,) = told["datasets"]
    assert (one["h"], one["n"], set(one["values"])) == ("harmlessness", 2, {"base", "merged"})
    assert radar.charts_of(told)
    assert Path(tmp_path / "items").is_dir()
