"""What a card tells the Hub: its metadata, its licences, its results."""

import pytest

from hf_merge3h.manifest import Manifest
from hf_merge3h.publishing import metadata as meta
from hf_merge3h.publishing.facts import facts_of
from tests.publishing.manifests import ROLES, SHA, card, card_of, content, dataset, evaluation, front_of, model


def test_metadata():
    data = front_of(card_of(content(evaluation=evaluation()), name="me-merged"))
    assert data["base_model"] == ["me/small", *(f"me/{role}" for role in ROLES)]
    assert data["base_model_relation"] == "merge"
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "transformers", "text-generation", "apache-2.0",
    )  # fmt: skip
    assert data["language"] == ["en"]
    assert data["tags"] == ["merge", "merge_3h", "r_tsvm"]
    assert data["model-index"][0]["name"] == "me-merged"
    assert meta.problems(data) == []


def test_metadata_survives_the_hubs_own_types():
    from huggingface_hub import ModelCard, ModelCardData

    text = card_of(content(evaluation=evaluation()))
    data = front_of(text)
    found = ModelCard(text).data
    assert found.to_dict() == ModelCardData(**data).to_dict() == data
    result = found.eval_results[0]
    assert (result.dataset_type, result.metric_value, result.dataset_revision) == ("openai/gsm8k", 0.5, "0" * 40)


def test_an_adapter_names_its_base_alone():
    adapter = {"source": "me/lora", "commit": "9" * 40, "card": card("mit")}
    carrier = {"commit": SHA["base"], "adapters": [adapter]}
    models = [model("base"), *(model(role, source="me/small", **carrier) for role in ROLES)]
    text = card_of(content(kind="adapter", models=models))
    data = front_of(text)
    assert (data["base_model"], data["base_model_relation"], data["library_name"]) == (["me/small"], "adapter", "peft")
    assert "AutoPeftModelForCausalLM" in text
    assert "carries the adapter" not in text  # it is the base, which is in the table once
    models[1]["source"] = "me/another"
    assert text.count("me/lora") == card_of(content(kind="adapter", models=models)).count("me/lora")
    assert "carries the adapter" in card_of(content(kind="adapter", models=models))


def test_languages_and_licence_only_where_all_agree():
    models = [model("base"), model("honesty", card=card("mit", language=["de"])), model("harmlessness")]
    data = front_of(card_of(content(models=models)))
    assert "language" not in data
    assert data["license"] == "apache-2.0"
    models[1]["card"] = card(None)
    assert "license" not in front_of(card_of(content(models=models)))


def test_a_conflict_leaves_the_licence_empty_and_names_both_clauses():
    models = [
        model("base"),
        model("honesty", card=card("cc-by-sa-4.0")),
        model("harmlessness", card=card("cc-by-nc-4.0")),
    ]
    text = card_of(content(models=models, permission={"reason": "They *said* yes", "date": "2026-11-24"}))
    assert "license" not in front_of(text)
    assert "**Conflict: a person has to decide.**" in text
    assert "`cc-by-sa-4.0`, share-alike" in text
    assert "`cc-by-nc-4.0`, non-commercial" in text
    assert r"They \*said\* yes" in text


def test_other_licences_are_named_and_linked():
    named = card("other", license_name="qwen")
    data = front_of(card_of(content(models=[model("base", card=named)])))
    assert (data["license"], data["license_name"]) == ("other", "qwen")
    assert data["license_link"].startswith("https://")


def test_whole_split_results_feed_the_hubs_leaderboards():
    from huggingface_hub import parse_eval_result_entries

    found = meta.eval_results(facts_of(Manifest(content(evaluation=evaluation()))))
    entry = parse_eval_result_entries(found["gsm8k.yaml"])[0]
    assert (entry.dataset_id, entry.task_id, entry.value, entry.date) == ("openai/gsm8k", "gsm8k", 50.0, "2026-11-24")
    part = evaluation(
        datasets=[
            dataset(n=100), dataset(dataset_id="me/other"),
            dataset(metric="gold_log_likelihood", key="log_likelihood"),  # the same records, and no accuracy
        ]
    )  # fmt: skip
    assert meta.eval_results(facts_of(Manifest(content(evaluation=part)))) == {}
    assert meta.eval_results(facts_of(Manifest(content()))) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_model": ["no id"]}, {"base_model_relation": "child"}, {"pipeline_tag": "chatting"}, {"license": "mine"},
        {"license": "other"}, {"language": ["english"]}, {"tags": [""]}, {"model-index": [{"results": []}]},
        {"model-index": [{"name": "x", "results": [{"task": {"type": "t"}, "dataset": {"name": "x"}}]}]},
    ],
)  # fmt: skip
def test_the_hubs_rules_are_held(wrong):
    assert meta.problems(wrong)
