"""Before a merge: what may be named, what is refused, and how that is told."""

from __future__ import annotations

import actions
import places
import pytest
import views
from editing import RefusedError
from form import Problem

from .common import DEMO, recipe


def test_preflight_tells_what_a_merge_takes():
    checked = actions.preflight(DEMO)
    assert checked.problems == ()
    assert checked.facts["architecture"] == "LlamaForCausalLM, 30 layers of 576"
    assert checked.facts["vocabulary"] == "49152 tokens"
    assert {"revisions", "peak memory", "time", "size of the result"} <= set(checked.facts)


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


def test_problems_mark_their_lines_and_escape_what_they_quote():
    shown = views.problems([Problem(2, "<i>", "do <this>")], text="a\n<b>bad</b>\n")
    assert "#yaml .cm-line:nth-child(2)" in shown
    assert "&lt;b&gt;bad&lt;/b&gt;" in shown
    assert "<i>" not in shown
