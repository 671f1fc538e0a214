"""Preflight, merge, figures: without a browser."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
from dataclasses import replace

import actions
import charts
import editing
import figures
import machines
import numpy as np
import places
import pytest
import views
from editing import RefusedError
from form import Problem
from tensors import CancelledError, Teller
from visits import MOST_MERGES, Merge, Visits

import hf_merge3h

DEMO = editing.examples()["demo"]


class Silent(Teller):
    """Remembers what it would have shown; stops at a share, if told to."""

    shares: list[float] = []  # noqa: RUF012 - all of a test's
    last = math.inf

    def say(self, share: float, text: str) -> None:
        self.shares.append(share)
        if share >= self.last:
            self.stop.touch()


@pytest.fixture
def teller(visit):
    Silent.shares.clear()
    return Silent(visit.stop)


@pytest.fixture(scope="module")
def made(demo_merge, tmp_path_factory) -> Merge:
    """The demo's merge, in a folder of this file's tests."""
    folder = tmp_path_factory.mktemp("made") / "model"
    shutil.copytree(demo_merge.folder, folder)
    return replace(demo_merge, folder=folder)


def test_preflight_tells_what_a_merge_takes():
    checked = actions.preflight(DEMO)
    assert checked.problems == ()
    assert checked.facts["architecture"] == "LlamaForCausalLM, 30 layers of 576"
    assert checked.facts["vocabulary"] == "49152 tokens"
    assert {"revisions", "peak memory", "time", "size of the result"} <= set(checked.facts)


def recipe(*sources: str, base: str = "HuggingFaceTB/SmolLM2-135M-Instruct") -> str:
    rows = "".join(f"  role{n}: {json.dumps(source)}\n" for n, source in enumerate(sources))
    return f"merge_method: ties\nbase_model: {json.dumps(base)}\nadapters:\n{rows}"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("../../etc", "no model that can be read here"),
        ("/etc/passwd", "no model that can be read here"),
        ("shipped:../helpful", "nothing of that name is shipped"),
        ("x/" + "y" * 3000, "3002 characters"),
        ("me/model@../../x", "no model that can be read here"),
        ("<script>alert(1)</script>", "no model that can be read here"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "is a whole model"),
    ],
)
def test_sources_are_confined_to_what_is_shipped_and_to_hub_ids(source, says, offline):
    checked = actions.preflight(recipe("shipped:helpful", source))
    assert [problem for problem in checked.problems if says in problem.text], checked.problems
    shown = views.checked(checked, "")
    assert "<script>" not in shown
    assert "To do:" in shown


def test_no_template_of_a_visitors_own_is_run_and_no_endless_recipe_read():
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    (problem,) = actions.preflight(f"{DEMO}chat_template: '{loops}'\n").problems
    assert problem.line == 1 + DEMO.count("\n")
    assert "template of one's own" in problem.text
    whole = DEMO.replace("out: adapter", "out: weights")
    assert not actions.preflight(f"{whole}chat_template: auto\n").problems
    (problem,) = actions.preflight(f"{DEMO}# {'x' * 100_000}\n").problems
    assert "characters" in problem.text


def test_a_folder_of_this_machine_is_no_hub_id(tmp_path, monkeypatch, offline):
    (tmp_path / "me" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    checked = actions.preflight(recipe("me/model"))
    assert "no model that can be read here" in checked.problems[0].text


def test_without_a_hub_its_models_are_refused_and_the_shipped_ones_named(offline):
    (problem,) = actions.preflight(recipe("me/model")).problems
    assert problem.text == "me/model: the Hub cannot be reached"
    assert "shipped" in problem.remedy
    assert places.search("anything") == []
    assert "No Hub" in views.banner(places.hub_reachable())


def test_what_would_not_fit_is_refused_before_the_merge(monkeypatch, visit, teller):
    monkeypatch.setenv("SPACE_MEMORY_GB", "0.05")
    with pytest.raises(RefusedError, match="of memory"):
        actions.merge(visit, DEMO, teller)
    assert list(visit.folder.iterdir()) == []


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


def test_figures_are_those_of_the_engines_report(made):
    (party,) = made.manifest["diagnostics"]
    total = party["total"]
    np.testing.assert_allclose(charts.norms_of(made.tensors), [*total["norms"], total["merged_norm"]], rtol=1e-9)
    cosines = np.array(charts.cosines_of(made.tensors))
    np.testing.assert_allclose(cosines[:-1, :-1], total["cosines"], rtol=1e-9)
    np.testing.assert_allclose(cosines[-1, :-1], total["merged_cosines"], rtol=1e-9)
    assert charts.conflict_of(made.tensors) == pytest.approx(total["sign_conflict"])
    assert charts.survived_of(made.tensors) == pytest.approx(total["survived"])


def test_every_picture_has_a_caption_a_table_and_downloads(made):
    found = charts.charts_of(made)
    assert [chart.name for chart in found] == [
        "norms_by_layer", "norms_by_module", "cosines", "sign_conflict", "survived", "spectra",
    ]  # fmt: skip
    for chart in found:
        assert chart.rows
        shown = figures.figure(chart, 1)
        assert html.escape(chart.caption) in shown
        assert shown.count('class="download"') == 2
        assert "#0102" not in shown  # no stand-in colour is left
        assert "<table>" in shown
    assert [row[0] for row in found[0].rows] == [str(layer) for layer in range(30)]
    spectrum = next(iter(made.spectra.values()))
    assert len(spectrum["honesty"]) == 8
    assert spectrum["honesty"] == sorted(spectrum["honesty"], reverse=True)


def test_a_merge_without_a_base_says_so(made):
    alone = Merge(**{**vars(made), "roles": (), "tensors": (), "spectra": {}})
    assert charts.charts_of(alone) == []
    assert "no base model" in views.look(alone)


def test_a_sweep_refuses_what_the_parameter_does_not_take(visit, teller):
    with pytest.raises(RefusedError, match="expected"):
        actions.sweep(visit, editing.examples()["weighted ties"], "density", [0.5, 7], teller)
    with pytest.raises(RefusedError, match="values"):
        actions.sweep(visit, DEMO, "lambda", [1], teller)
    with pytest.raises(RefusedError, match="no list of numbers"):
        editing.numbers_of("0.5, one")
    assert editing.numbers_of("0.5, 1;2") == [0.5, 1, 2]


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


def test_problems_mark_their_lines_and_escape_what_they_quote():
    shown = views.problems([Problem(2, "<i>", "do <this>")], text="a\n<b>bad</b>\n")
    assert "#yaml .cm-line:nth-child(2)" in shown
    assert "&lt;b&gt;bad&lt;/b&gt;" in shown
    assert "<i>" not in shown


def test_spectra_are_those_of_the_multiplied_out_changes(made):
    import torch
    from safetensors.torch import load_file

    def dense(folder, name: str) -> torch.Tensor:
        config = json.loads((folder / "adapter_config.json").read_text())
        stored = load_file(folder / "adapter_model.safetensors")
        inside = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = (stored[f"{inside}.lora_{each}.weight"].double() for each in "AB")
        alphas = (config.get("alpha_pattern") or {}).items()
        module = name.removesuffix(".weight")
        alpha = next((value for key, value in alphas if re.match(rf"(.*\.)?({key})$", module)), config["lora_alpha"])
        rank = a.shape[0]
        return b @ a * (alpha / (rank**0.5 if config.get("use_rslora") else rank))

    name, found = next(iter(made.spectra.items()))
    for who, folder in (("honesty", places.shipped()["shipped:honest"]), ("merged", made.folder)):
        expected = torch.linalg.svdvals(dense(folder, name))[: len(found[who])]
        np.testing.assert_allclose(found[who], expected, atol=1e-6 * float(expected[0]))


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
