import json

import pytest

from hf_merge3h.manifest import Manifest
from hf_merge3h.publishing.card import make_card
from hf_merge3h.publishing.public import public
from tests.publishing.manifests import content, evaluation, model


def _local(home):
    """A merge of local folders, which stand in its warnings and its evaluation too."""
    models = [model(role, source=f"{home}base/", given=f"{home}base/", commit=None) for role in ("base",)]
    models.append(model("honesty", source=f"{home}honest", given=f"{home}base/+{home}honest", commit=None))
    shown = {
        "base": f"{home}base/", "merged": f"{home}runs/merged", "honest": f"{home}base/ + {home}honest",
        "hub": "me/small@main", "server": "gpt at http://10.0.0.7:8000/v1", "live": "LlamaForCausalLM",
    }  # fmt: skip
    return content(
        models=models,
        recipe={
            **content()["recipe"],
            "given": {"base_model": f"{home}base/", "models": [f"{home}base/+{home}honest"]},
        },
        warnings=[f"{home}honest/tokenizer.json: has 3 tokens more than {home}base/"],
        evaluation=evaluation(
            models=shown, not_evaluated=[{"dataset": "x", "h": "honesty", "reason": f"{home}runs/merged cannot"}]
        ),
    )


@pytest.mark.parametrize("home", ["/home/me/models/", "C:\\Users\\me\\models\\", "../secret/models/"])
def test_nobody_sees_where_models_are_kept(home):
    made = public(Manifest(_local(home)))
    for text in (json.dumps(made.content), make_card(Manifest(_local(home)))):
        for secret in ("home", "Users", "secret", "10.0.0.7"):
            assert secret not in text, secret
    told = made.content["evaluation"]
    assert told["models"]["merged"] == "merged"
    assert told["models"]["hub"] == "me/small@main"
    assert told["models"]["server"] == "gpt at an endpoint"
    assert told["not_evaluated"][0]["reason"] == "merged cannot"
    assert made.content["warnings"] == ["honest/tokenizer.json: has 3 tokens more than base"] or "\\" in home
    assert public(made).content == made.content


def test_what_is_on_the_hub_stays():
    made = content(evaluation=evaluation(models={"merged": "me/merged", "base": "me/small"}))
    assert public(Manifest(made)).content == made
