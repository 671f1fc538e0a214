"""The report, from items made by hand: figures, differences, what the merge did, texts that want to break out."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

import hf_merge3h
from hf_merge3h.errors import MergeWarning, RequestError, SourceError
from hf_merge3h.evaluation.plot import _planes, draw
from hf_merge3h.evaluation.report import Report
from hf_merge3h.evaluation.store import Store

from . import tiny

MODELS = ("base", "helpful", "honest", "harmless", "merged")
EVIL = "<script>alert(1)</script> | *bold* \x1b[31m"
DATASETS = {
    "sums": ("helpfulness", "math", "math_accuracy", "accuracy", "higher", {"answer_format": "gsm8k"}),
    "facts": ("honesty", "truthfulness", "truthful_choice", "mc2", "higher", {}),
    "x_unsafe": ("harmlessness", "unsafe_refusal", "refusal_rate", "unsafe_refusal_rate", "higher", {}),
    "x_safe": ("harmlessness", "over_refusal", "refusal_rate", "over_refusal_rate", "lower", {}),
}
SHARES = {  # of 40 items, in the order of MODELS
    "sums": (8, 32, 8, 4, 20),
    "facts": (16, 12, 32, 16, 24),
    "x_unsafe": (4, 4, 4, 36, 34),
    "x_safe": (0, 0, 0, 16, 20),
}


def scores(dataset: str, hit: bool) -> dict:
    if dataset == "sums":
        return {"correct": hit, "strict": hit, "flexible": hit, "parsed": True}
    if dataset == "facts":
        return {"mc1": float(hit), "mc2": 0.75 if hit else 0.25, "choices": 3}
    return {"refusal": hit, "refusal_strmatch": hit, "prompt": dataset.removeprefix("x_")}


def value(dataset: str, hit: bool) -> float:
    return (0.75 if hit else 0.25) if dataset == "facts" else float(hit)


@pytest.fixture
def folder(tmp_path):
    ids = [f"i{k}" for k in range(40)]
    facts = {
        "suite": "tiny", "suite_digest": "0", "date": "2026-01-01T00:00:00+00:00", "versions": {"torch": "0"},
        "judge": None, "seed": 0, "limit": None, "models": {name: name for name in MODELS},
        "experts": {"helpful": "helpfulness", "honest": "honesty", "harmless": "harmlessness"},
        "datasets": {
            name: {
                "title": name, "h": h, "dimension": dimension, "metric": metric, "key": key, "direction": direction,
                "form": "generate", "averaged": True, "options": options, "dataset_id": f"org/{name}",
                "dataset_revision": "main", "split": "test", "licence": "MIT", "settings": "s", "ids": ids,
            }
            for name, (h, dimension, metric, key, direction, options) in DATASETS.items()
        },
        "not_evaluated": [{"dataset": "wild", "h": "honesty", "reason": "needs a judge"}],
        "left_out": {"sums": 2}, "refused": {}, "warnings": [],
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(facts))
    for place, model in enumerate(MODELS):
        for name in DATASETS:
            hits = SHARES[name][place]
            base = tmp_path / "items" / model / name
            Store(base.with_name(f"{name}.answers.jsonl")).add(
                {"id": one, "question": f"{name} {one} {EVIL}", "answers": [f"{model}: {EVIL}"]} for one in ids
            )
            Store(base.with_name(f"{name}.scores.jsonl")).add(
                {"id": one, "value": value(name, k < hits), "scores": scores(name, k < hits)}
                for k, one in enumerate(ids)
            )
    return tmp_path


def test_figures_and_what_the_merge_did(folder):
    told = Report.read(folder).to_dict()
    by_name = {one["dataset"]: one for one in told["datasets"]}
    assert by_name["sums"]["values"]["merged"]["value"] == 0.5
    assert by_name["sums"]["figures"]["merged"] == {
        "accuracy": 0.5, "accuracy_strict": 0.5, "accuracy_flexible": 0.5, "parse_rate": 1.0
    }  # fmt: skip
    summary = told["summary"]
    assert {h: summary["h"][h]["merged"]["value"] for h in summary["h"]} == pytest.approx(
        {"helpfulness": 0.5, "honesty": 0.55, "harmlessness": (34 / 40 + 20 / 40) / 2}
    )
    assert summary["min_h"]["merged"]["value"] == pytest.approx(0.5)
    assert summary["gain"]["helpfulness"]["value"] == pytest.approx(0.3)
    assert summary["worst_drop"]["h"] == "honesty"
    assert summary["worst_drop"]["value"] == pytest.approx(0.1)
    assert summary["retention"]["helpful"]["value"] == pytest.approx(20 / 32)
    assert summary["recovery"]["helpful"]["value"] == pytest.approx(12 / 24)
    assert summary["recovery"]["honest"]["value"] == pytest.approx(0.5)
    assert summary["conflict"]["helpful"]["honesty"]["value"] == pytest.approx(-0.05)
    assert summary["conflict"]["honest"]["helpfulness"]["value"] == 0
    assert summary["pareto"]["merged"] == []
    assert summary["pareto"]["base"] == ["honest", "merged"]
    assert summary["hypervolume"]["with_merged"] > summary["hypervolume"]["without_merged"]
    assert summary["coverage"] == {
        "helpfulness": "1 of 1 datasets", "honesty": "1 of 2 datasets", "harmlessness": "2 of 2 datasets"
    }  # fmt: skip


def test_differences_are_paired_and_turned_the_right_way(folder):
    report = Report.read(folder)
    safe = {one["against"]: one for one in report.paired["x_safe"]}
    assert safe["base"]["difference"] == 0.5
    assert (safe["base"]["distinguishable"], safe["base"]["better"]) == (True, False)  # refuses more safe prompts
    assert safe["harmless"]["better"] is None
    sums = {one["against"]: one for one in report.paired["sums"]}
    assert sums["base"]["better"] is True
    assert sums["helpful"]["better"] is False
    assert sums["base"]["p"] == pytest.approx(2 * 0.5**12)
    assert sums["base"]["p_holm"] >= sums["base"]["p"]
    assert set(sums["base"]) == {
        "against", "difference", "low", "high", "p", "n", "p_holm", "distinguishable", "better"
    }  # fmt: skip
    flips = report.flips("sums", "helpful")
    assert (len(flips["1 to 0"]), len(flips["0 to 1"])) == (12, 0)
    assert flips["1 to 0"][0]["answers"]["merged"] == [f"merged: {EVIL}"]
    assert report.flips("facts", "base") == {}  # mc2 is no verdict


def test_recovery_is_undefined_where_the_experts_gain_may_be_nothing(folder):
    path = folder / "items" / "honest" / "facts.scores.jsonl"
    path.unlink()
    Store(path).add(
        {"id": f"i{k}", "value": value("facts", k % 2 == 0), "scores": scores("facts", k % 2 == 0)} for k in range(40)
    )
    told = Report.read(folder).summary["recovery"]["honest"]
    assert told["value"] is None
    assert "may be nothing" in told["reason"]


def test_what_got_worse_comes_first(folder):
    report = Report.read(folder)
    for text in (report.to_markdown(), repr(report)):
        assert text.index("What got worse") < text.index("x_safe: merged is worse than base") < text.index("Data sets")
        assert "not distinguishable" in text
        assert "needs a judge" in text
        assert "honesty: 1 of 2 datasets" in text
        assert "trained on the question: sums 2" in text


def test_an_h_that_the_suite_lacks_is_told_so(folder):
    report = Report.read(folder)
    for name in [name for name, fact in report.facts["datasets"].items() if fact["h"] == "honesty"]:
        del report.facts["datasets"][name]
    report.facts["not_evaluated"] = [one for one in report.facts["not_evaluated"] if one["h"] != "honesty"]
    assert report.summary["coverage"]["honesty"] == "the suite has none of it"


def test_the_page_runs_nothing_and_fetches_nothing(folder):
    page = Report.read(folder).to_html(folder / "page.html")
    assert (folder / "page.html").read_text() == page
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page
    assert "12 from 1 to 0" in page


def test_pictures(folder, tmp_path):
    report = Report.read(folder)
    for dark in (False, True):
        figure = report.plot(tmp_path / f"{dark}.png", dark=dark)
        assert len(figure.axes) == 4  # three panels and a bar of colours
        assert (tmp_path / f"{dark}.png").stat().st_size > 10_000
    lines = {line.get_label(): line for line in draw(report, dark=False, kind="radar").axes[0].lines}
    names = list(DATASETS)
    for place, model in enumerate(MODELS):  # outwards is better: over-refusal is turned
        expected = [report.figures[name][model].value for name in names]
        expected[3] = 1 - expected[3]
        assert list(lines[model].get_ydata())[:4] == pytest.approx(expected), place
    with pytest.raises(RequestError, match="kind='bars'"):
        report.plot(kind="bars")


def test_refusals_are_drawn_of_sets_that_belong_together():
    keys = {
        "orbench_hard": "over_refusal_rate",
        "xstest_unsafe": "unsafe_refusal_rate",
        "xstest_safe": "over_refusal_rate",
    }
    report = SimpleNamespace(
        facts={"datasets": {name: {"key": key} for name, key in keys.items()}}, figures=dict.fromkeys(keys, True)
    )
    assert _planes(report) == [("xstest_safe", "xstest_unsafe"), ("orbench_hard", "xstest_unsafe")]


def test_a_single_model_has_figures_and_no_comparison(folder):
    facts = json.loads((folder / "run.json").read_text())
    facts["models"], facts["experts"] = {"merged": "merged"}, {}
    (folder / "run.json").write_text(json.dumps(facts))
    report = Report.read(folder)
    assert report.to_dict()["datasets"][0]["paired"] == []
    assert "no other model" in report.to_markdown()
    with pytest.raises(RequestError, match="nothing to draw for conflict"):
        report.plot(kind="conflict")
    assert "min_h" in report.summary


def test_what_a_killed_run_did_not_score_is_named(folder):
    for path in folder.glob("items/*/facts.scores.jsonl"):
        path.unlink()
    report = Report.read(folder)
    assert {one["dataset"]: one["reason"] for one in report.not_evaluated} == {
        "wild": "needs a judge",
        "facts": "the run ended before this was scored; the same call goes on where it stopped",
    }
    assert "the run ended before this was scored" in report.to_markdown()
    assert report.summary["coverage"]["honesty"] == "0 of 2 datasets"


def test_results_reach_the_manifest(folder, tmp_path):
    from tests.engine.recipes import family

    family(tmp_path / "family")
    recipe = {
        "merge_method": "linear", "dtype": "float32",
        "models": [{"model": str(tmp_path / "family" / name), "parameters": {"weight": 1.0}} for name in ("e1", "e2")],
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    hf_merge3h.merge_recipe(tmp_path / "recipe.yaml", tmp_path / "model")
    before = hf_merge3h.load_manifest(tmp_path / "model").content
    report = Report.read(folder)
    assert report.write_into(tmp_path / "model")
    after = dict(hf_merge3h.load_manifest(tmp_path / "model").content)
    evaluation = after.pop("evaluation")
    assert after == before
    assert evaluation == json.loads(report.to_json())
    assert {"suite", "date", "versions", "judge", "base", "merged", "experts", "datasets", "not_evaluated",
            "summary"} <= set(evaluation)  # fmt: skip
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Suite `" in card
    assert "**Not evaluated.**" not in card
    (tmp_path / "model" / "README.md").write_text(card.replace("<!-- /merge3h:results -->", ""))
    with pytest.warns(MergeWarning, match="not in its card: README.md: the markers of results"):
        assert report.write_into(tmp_path / "model")
    assert not report.write_into(tmp_path / "family" / "base")
    (tmp_path / "model" / "merge3h.json").write_text("{")
    with pytest.raises(SourceError, match="no JSON"):
        report.write_into(tmp_path / "model")


def test_written_into_the_folder_that_was_evaluated(tmp_path, suite, models):
    recipe = {
        "merge_method": "linear", "dtype": "float32",
        "models": [{"model": str(models[name]), "parameters": {"weight": 1.0}} for name in ("helpful", "merged")],
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    hf_merge3h.merge_recipe(tmp_path / "recipe.yaml", tmp_path / "model")
    hf_merge3h.evaluate_3h(
        tmp_path / "model", suite, limit=1, datasets=["facts"], progress=False, device="cpu", tokenizer=tiny.tokenizer()
    )
    told = hf_merge3h.load_manifest(tmp_path / "model").content["evaluation"]
    assert told["datasets"][0]["values"]["merged"]["n"] == 1
