"""The quick evaluation: within its time, in the manifest and the card, and drawn."""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace

import actions
import measuring
import pytest
import radar
import views
from editing import RefusedError
from tensors import CancelledError, Teller
from voices import Speaker

import hf_merge3h
from tests.publishing.manifests import dataset, evaluation

H = ("helpfulness", "honesty", "harmlessness")


def found(names=("base", *H, "merged"), hs=H):
    """An evaluation of all speakers, as the library gives it."""
    value = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 12}
    values = {name: {**value, "value": 0.1 + 0.15 * place} for place, name in enumerate(names)}
    sets = [dataset(h, title=f"Set of {h}", h=h, dimension=h, values=values, paired=[], n=12) for h in hs]
    return evaluation(
        datasets=sets, experts=dict(zip(H, H, strict=True)), summary={"h": dict.fromkeys(hs, values)}, not_evaluated=[]
    )


def test_the_library_is_asked_to_keep_to_the_time(monkeypatch, tmp_path):
    asked, heard = {}, []

    def evaluate(models, suite, **options):
        asked.update(options, models=models, suite=suite)
        options["progress"](0.5, "base: Instructions")
        return SimpleNamespace(to_dict=lambda: {"n": 1})

    monkeypatch.setattr(measuring.hf_merge3h, "evaluate_3h", evaluate)
    monkeypatch.setattr(measuring.places, "weights_of", lambda name: 1)
    speakers = [Speaker("base", "a/b"), Speaker("honesty", "a/b", str(tmp_path)), Speaker("merged", "a/b", "c/d")]
    measuring.check(speakers)
    told = measuring.measure(speakers, {"base": 1}, lambda *said: heard.append(said), seconds=60)
    assert told == {"n": 1}
    assert asked["models"] == {"base": 1}
    assert asked["max_seconds"] + measuring.SCORING == 60
    assert (asked["suite"], asked["roles"]) == ("3h-offline", {"honesty": "honesty"})
    assert asked["leave_out"] == [str(tmp_path)]
    assert asked["skip_unreachable"]
    assert heard == [(0.475, "base: Instructions")]


def test_what_was_asked_and_left_out_is_told():
    short = found()
    short["stopped"] = {"set": {"answered": 2, "of": 24}}
    short["not_evaluated"] = [{"dataset": "truthfulqa", "h": "honesty", "reason": "no time"}]
    text = measuring.told(short)
    assert text.startswith("Questions that all models answered: 12 of Set of helpfulness; 12 of Set of honesty")
    assert "More did not fit into the 120 s" in text
    assert "Left out: truthfulqa" in text
    assert "did not fit" not in measuring.told(found())


def test_results_go_into_manifest_card_and_pictures(made, visit, teller, monkeypatch):
    def measure(speakers, models, tell):
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
        assert "| helpfulness | Set of helpfulness: " in actions.card_of(measured)
        shown = views.look(measured)
        assert shown.index("Helpful, honest, harmless?") < shown.index("How much each layer changed")
        assert "Helpful, honest, harmless?" not in views.look(made)
    finally:
        visit.merges.clear()
        for name, content in before.items():
            (made.folder / name).write_bytes(content)


def test_what_cannot_be_asked_is_refused(made, visit, teller, monkeypatch):
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


def test_an_h_of_likelihoods_alone_is_drawn_as_probabilities_and_says_so():
    gold = {"value": math.log(0.25), "low": math.log(0.2), "high": None, "n": 5}
    likely = dataset(
        "gold", h="helpfulness", key="log_likelihood", values={"base": gold, "merged": gold}, paired=[], n=5
    )
    short = found(hs=H[1:])
    (chart,) = radar.charts_of({**short, "datasets": [likely, *short["datasets"]]})
    assert "Helpfulness (likelihood): how probable" in chart.caption
    assert "Not measured" not in chart.caption
    ((_, _, *cells),) = [row for row in chart.rows if row[:2] == ("helpfulness (likelihood)", "merged")]
    assert cells == [pytest.approx(0.25), pytest.approx(0.2), "-", 5]
    whole = found()  # where written answers were checked, they are what the axis shows
    (chart,) = radar.charts_of({**whole, "datasets": [likely, *whole["datasets"]]})
    assert "likelihood" not in chart.caption


def test_each_h_has_a_data_set_that_takes_seconds():
    from hf_merge3h.evaluation.pace import quick_first
    from hf_merge3h.evaluation.suite import read_suite

    tasks = {name: task for name, task in read_suite("3h-offline").tasks.items() if name in measuring.DATASETS}
    assert set(tasks) == set(measuring.DATASETS)
    first = [tasks[name] for name in quick_first(tasks)[:3]]
    assert {task.h for task in first} == set(H)
    assert all(measuring.SHORT.get(task.name, task.most_tokens) <= 24 for task in first)


def test_no_evaluation_no_picture():
    assert radar.charts_of(None) == []
    assert radar.charts_of({"datasets": []}) == []


def test_real_models_are_asked(made, monkeypatch):
    monkeypatch.setattr(measuring, "DATASETS", ("safe_lookalikes",))
    monkeypatch.setattr(measuring, "MOST", 2)
    speakers = [each for each in actions.speakers(made) if each.label in ("base", "merged")]
    heard = []
    with actions.VOICES.sources(speakers) as models:
        told = measuring.measure(speakers, models, lambda *said: heard.append(said), seconds=600)
    (one,) = told["datasets"]
    assert (one["h"], one["n"], set(one["values"])) == ("harmlessness", 2, {"base", "merged"})
    assert radar.charts_of(told)
    assert "2 of Safe prompts" in measuring.told(told)
    assert heard[-1] == (
        0.95,
        "2 models: Safe prompts that look unsafe, 40 of our own, answers of 24 tokens",
    )  # asked in one batch


def test_a_model_of_its_own_speaks_as_its_adapter_does(made):
    import torch

    for speaker in actions.speakers(made)[::4]:  # base and merged
        *_, said = actions.VOICES.answers([speaker], "What is honey?", 6)
        alone = actions.VOICES._alone(speaker)
        assert not hasattr(alone, "peft_config")
        tokenizer = actions.VOICES._models[speaker.model].tokenizer
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": "What is honey?"}], add_generation_prompt=True, return_tensors="pt",
            return_dict=True,
        )  # fmt: skip
        with torch.inference_mode():
            output = alone.generate(**ids, max_new_tokens=6, do_sample=False)
        text = tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert text == said[speaker.label]


def test_whole_models_are_opened_in_turn():
    speakers = [Speaker("base", "a/b"), Speaker("honesty", "c/d")]
    with actions.VOICES.sources(speakers) as models:
        assert set(models) == {"base", "honesty"}
        assert all(callable(each) for each in models.values())


def test_nobody_is_forgotten_while_models_speak(made):
    loaded = []
    with actions.VOICES.sources(actions.speakers(made)) as models:
        adapters = models["merged"][0].peft_config
        loaded += [models["merged"][1], models["honesty"][1]]
        actions.VOICES.forget(made.folder)  # does not wait
        assert set(loaded) <= set(adapters)
    assert loaded[0] not in adapters
    assert loaded[1] in adapters


def test_a_visitor_who_leaves_stops_the_questions(made, visit, teller, monkeypatch):
    monkeypatch.setattr(measuring.hf_merge3h, "evaluate_3h", lambda *a, progress, **k: progress(0.1, "base: x"))
    visit.merges.append(made)
    stop = visit.stop_of("evaluation")
    stop.touch()
    with pytest.raises(CancelledError):
        actions.evaluate(visit, made, Teller(stop))
    with pytest.raises(CancelledError):
        actions.evaluate(visit, made, Teller(visit.folder / "gone" / "stop"))  # as when the visit's folder is gone
    visit.merges.clear()


def test_a_merge_that_made_room_meanwhile_is_told(made, visit, teller, monkeypatch):
    monkeypatch.setattr(measuring, "measure", lambda *arguments: found())
    with pytest.raises(RefusedError, match="made room"):
        actions.evaluate(visit, made, teller)
