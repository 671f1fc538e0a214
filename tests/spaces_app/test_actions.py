"""What the page does: merge, sweep, ask, publish, and what a visit keeps; without a browser."""

from __future__ import annotations

import json

import actions
import editing
import machines
import places
import preflight
import pytest
import views
from editing import RefusedError
from form import read
from tensors import CancelledError
from visits import MOST_MERGES, Merge, Visits

import hf_merge3h

from .common import DEMO


def test_a_merge_leaves_model_recipe_and_manifest_without_this_machines_paths(made):
    names = {path.name for path in made.folder.iterdir()}
    assert {"recipe.yaml", "merge3h.json"} <= names
    assert [name for name in names if name.endswith(".safetensors")]
    assert (made.folder / "recipe.yaml").read_text() == DEMO
    written = (made.folder / "merge3h.json").read_text()
    assert hf_merge3h.load_manifest(made.folder).content == made.manifest
    for place in (str(places.base_folder()), *map(str, places.shipped().values())):
        assert place not in written
    assert "shipped:honest" in written
    assert set(made.roles) == {"helpfulness", "honesty", "harmlessness"}


def test_what_is_downloaded_is_what_it_says(made):
    found = hf_merge3h.verify(made.folder, again=False)
    assert (found.outcome, found.findings) == ("hashes match", ())


def test_progress_is_the_engines_and_a_cancelled_merge_leaves_nothing(visit, teller):
    teller.last = 0.3
    with pytest.raises(CancelledError):
        actions.merge(visit, DEMO, teller)
    assert 0 < teller.shares[0] < teller.shares[-1] < 1
    assert teller.shares == sorted(teller.shares)
    assert [path.name for path in visit.folder.iterdir()] == ["stop"]
    assert visit.merges == []


def test_a_visit_keeps_four_merges_and_its_files_go_with_it(tmp_path, made):
    visits = Visits(tmp_path)
    visit = visits.of("me")
    other = visits.of("somebody")
    assert visit.folder != other.folder
    for number in range(1, MOST_MERGES + 2):
        folder = visit.folder / f"merge-{number}"
        folder.mkdir()
        visit.keep(Merge(**{**vars(made), "number": number, "folder": folder}))
    assert [merge.number for merge in visit.merges] == [2, 3, 4, 5]
    assert not (visit.folder / "merge-1").exists()
    assert visit.find(None).number == 5
    assert visit.find(1) is None
    table = views.compare(visit)
    assert all(f"Merge {number}: r_tsvm" in table for number in (2, 3, 4, 5))
    visits.close("me")
    assert not visit.folder.exists()
    assert other.folder.exists()


def test_idle_visits_end(tmp_path, monkeypatch):
    import visits as module

    visits = Visits(tmp_path)
    idle = visits.of("idle")
    idle.seen -= module.IDLE + 1
    visits.of("busy")
    assert not idle.folder.exists()


def test_a_sweep_refuses_what_the_parameter_does_not_take(visit, teller):
    with pytest.raises(RefusedError, match="expected"):
        actions.sweep(visit, editing.examples()["weighted ties"], "density", [0.5, 7], teller)
    with pytest.raises(RefusedError, match="values"):
        actions.sweep(visit, DEMO, "lambda", [1], teller)
    with pytest.raises(RefusedError, match="no list of numbers"):
        editing.numbers_of("0.5, one")
    assert editing.numbers_of("0.5, 1;2") == [0.5, 1, 2]


def test_a_sweep_begins_with_values_that_the_parameter_takes():
    for text in editing.examples().values():
        for name in editing.sweepable(text):
            for value in editing.numbers_of(editing.sweep_values(text, name)):
                assert read(editing.set_parameter(text, name, value))[1] == [], (name, value)
    assert editing.sweep_values("{", "lambda") == editing.SWEEPS[0]


def test_a_sweep_shows_each_value_and_keeps_no_files(visit, teller):
    chart = actions.sweep(visit, DEMO, "lambda", [0.5, 1.0], teller)
    assert [row[0] for row in chart.rows] == [0.5, 1.0]
    assert chart.rows[1][1] == pytest.approx(2 * chart.rows[0][1], rel=1e-4)  # twice the scale, twice the change
    assert chart.rows[1][3] == pytest.approx(chart.rows[0][3], rel=1e-4)  # in the same direction
    assert list(visit.folder.iterdir()) == []
    assert visit.merges == []


def test_all_speak_and_markup_stays_text(made):
    names = [speaker.label for speaker in actions.speakers(made)]
    assert names == ["base", "helpfulness", "honesty", "harmlessness", "merged"]
    *_, said = actions.chat(made, "How many legs has a dog?", 8)
    assert list(said) == names
    assert all(said.values())
    loads = actions.VOICES.loads
    *_, again = actions.chat(made, "How many legs has a dog?", 8)
    assert again == said
    assert actions.VOICES.loads == loads  # nothing was loaded again
    assert actions.marks({"a": "I cannot help with that.", "b": "A dog has four legs."}) == {"a": "refuses"}
    shown = views.answers({"<b>x</b>": "<img src=x onerror=alert(1)>"}, {}, done=True)
    assert "<img" not in shown
    assert "<b>" not in shown
    with pytest.raises(RefusedError):
        next(actions.chat(made, " ", 8))
    with pytest.raises(RefusedError, match="3000 characters"):
        next(actions.chat(made, "x" * 3000, 8))


def test_a_second_merge_loads_no_model_again(made, visit, teller):
    for _ in actions.chat(made, "How many legs has a dog?", 1):
        opened = preflight._last[0].adapters  # as the first merge read them
    loads = actions.VOICES.loads
    second = actions.merge(visit, f"{DEMO}parameters:\n  lambda: 0.5\n", teller)
    assert all(one is other for one, other in zip(opened, preflight._last[0].adapters, strict=True))
    assert actions.VOICES.loads == loads
    *_, said = actions.chat(second, "How many legs has a dog?", 1)
    assert len(said) == 5
    assert actions.VOICES.loads == loads + 1  # the second merge itself; base and experts are those of the first


def test_the_tools_for_machines(made):
    assert {each["name"] for each in machines.list_methods()} == {m.name for m in hf_merge3h.list_methods()}
    json.dumps(machines.list_methods())
    assert machines.plan_merge(DEMO)["ok"]
    refused = machines.plan_merge("merge_method: ties\n")
    assert not refused["ok"]
    assert refused["problems"][0]["text"]
    told = machines.explain_manifest(json.dumps(made.manifest))
    assert "Method r_tsvm" in told
    assert "shipped:honest" in told
    assert "no whole manifest" in machines.explain_manifest('{"schema_version": 1}')
    assert "is no JSON" in machines.explain_manifest("{")
    assert "at most 5 million" in machines.explain_manifest("x" * 5_000_001)
    broken = {**made.manifest, "models": 3}
    assert "is no whole manifest: models=3" in machines.explain_manifest(json.dumps(broken))


def test_who_may_publish(made, monkeypatch):
    with pytest.raises(RefusedError, match="nobody is logged in"):
        actions.publish(made, "me/merged", True, None)
    with pytest.raises(RefusedError, match="nothing is merged"):
        actions.publish(None, "me/merged", True, "hf_secret")

    def refuse(folder, repo, *, private, token):
        raise hf_merge3h.RequestError(f"{folder}: {token} may not write to {repo}")

    monkeypatch.setattr(hf_merge3h, "publish", refuse)
    with pytest.raises(RefusedError) as caught:
        actions.publish(made, "me/merged", True, "hf_secret")
    assert "hf_secret" not in str(caught.value)
    assert str(made.folder) not in str(caught.value)


def test_the_card_and_the_licences_are_shown(made):
    card = actions.card_of(made)
    assert card.startswith("# R-TSVM")
    assert "Not evaluated" in card
    assert "<picture" not in card
    facts = actions.preflight(DEMO).facts
    assert "apache-2.0: compatible" in facts["licences"]
