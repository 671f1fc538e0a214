"""Cards on every way out: `save_pretrained` and `push_to_hub` of live models and adapters, and streamed merges."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM

import hf_merge3h
from hf_merge3h.errors import RequestError
from hf_merge3h.publishing.sections import handwritten
from tests.engine.models import ROLES, llama, quiet, three_adapters, whole_experts

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


def _merged():
    base = llama()
    with quiet():
        return base.merge_3h(dict(zip(ROLES, whole_experts(base), strict=True)), method="ties", progress=False)


def test_a_saved_model_has_its_card(tmp_path):
    model = _merged()
    model.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert f"# TIES-Merging of {ROLES[0]}, {ROLES[1]} and {ROLES[2]}" in text
    assert "tie" in text.partition("## Recipe")[2]
    (tmp_path / "README.md").write_text(f"{text}\nMy words.\n")
    model.save_pretrained(tmp_path)
    assert handwritten((tmp_path / "README.md").read_text()).endswith("\nMy words.\n")


def test_the_report_gives_the_card_of_what_was_not_saved():
    model = _merged()
    text = model.merge_report.card(name="balanced")
    assert "# balanced" in text
    assert "## Provenance" in text
    with pytest.raises(RequestError, match="save_pretrained"):
        model.merge_report.push_to_hub("me/balanced")


@pytest.fixture
def adapted():
    model = three_adapters(llama())
    with quiet():
        return model.merge_3h(list(ROLES), method="linear", adapter_name="balanced", progress=False)


def test_peft_s_own_card_gives_way(adapted, tmp_path):
    adapted.save_pretrained(tmp_path, selected_adapters=["balanced"])
    for folder in (tmp_path, tmp_path / "balanced"):
        text = (folder / "README.md").read_text()
        assert "More Information Needed" not in text
        assert "library_name: peft" in text
        assert "Framework versions" not in text
    assert 'from_pretrained("balanced")' in (tmp_path / "README.md").read_text()


def test_handwriting_outlives_peft(adapted, tmp_path):
    words = "---\nthumbnail: x.png # mine\n---\n\n# Mine\n\nby   hand\n"
    (tmp_path / "README.md").write_text(words)
    adapted.save_pretrained(tmp_path, selected_adapters=["balanced"])
    text = (tmp_path / "README.md").read_text()
    assert "thumbnail: x.png # mine\n" in text
    assert text.endswith("\n# Mine\n\nby   hand\n")
    assert "PEFT" not in handwritten(text)


def test_a_model_that_is_pushed_has_its_card(hub):
    _merged().push_to_hub("me/live")
    text = hub.repos["me/live"].files["README.md"].decode()
    assert "## Provenance" in text
    assert "More Information Needed" not in text
    hub.repos["me/live"].files["README.md"] = f"{text}\nFrom the browser.\n".encode()
    _merged().push_to_hub("me/live")
    assert hub.repos["me/live"].files["README.md"].decode().endswith("\nFrom the browser.\n")


def test_the_report_publishes_what_was_saved(hub, tmp_path):
    model = _merged()
    model.save_pretrained(tmp_path)
    assert "/me/live/commit/" in model.merge_report.push_to_hub("me/live")
    assert len(hub.commits) == 1


def _run_snippet(folder, monkeypatch):
    """What the code of a card leaves, run in the folder of its merge as a reader would."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S).group(1)
    monkeypatch.chdir(folder)
    found = {}
    exec(code, found)
    return found


def _tokenizer(folder, template=None):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "Why", "is", "the", "sky", "blue", "?", "user", "assistant"]
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", pad_token="[UNK]")
    made.chat_template = template
    made.save_pretrained(folder)


def test_the_snippet_of_a_card_runs(tmp_path, monkeypatch):
    _merged().save_pretrained(tmp_path)
    assert isinstance(_run_snippet(tmp_path, monkeypatch)["model"], torch.nn.Module)


TEMPLATE = "{% for turn in messages %}{{ turn.role }} {{ turn.content }} {% endfor %}assistant"


@pytest.mark.parametrize("template", [None, TEMPLATE])
@pytest.mark.parametrize("adapter", [False, True])
def test_the_snippet_of_a_card_answers(tmp_path, monkeypatch, capsys, adapter, template):
    base = llama()
    base.save_pretrained(tmp_path / "base")
    _tokenizer(tmp_path / "base", template)
    if adapter:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        model = three_adapters(model)
        with quiet():
            model.merge_3h(list(ROLES), method="linear", adapter_name="default", progress=False)
        model.save_pretrained(tmp_path / "out", selected_adapters=["default"])
    else:
        for name, each in zip(ROLES, whole_experts(base), strict=True):
            each.save_pretrained(tmp_path / name)
        models = [{"model": str(tmp_path / role), "parameters": {"weight": 1.0}} for role in ROLES]
        recipe = {"merge_method": "ties", "base_model": str(tmp_path / "base"), "models": models}
        hf_merge3h.merge_recipe(recipe, tmp_path / "out", progress=False)
    capsys.readouterr()
    found = _run_snippet(tmp_path / "out", monkeypatch)
    assert found["output"].shape[1] > found["inputs"]["input_ids"].shape[1]
    assert ("messages" in found) == (template is not None)
    assert capsys.readouterr().out.strip()


def test_a_streamed_merge_that_is_made_again_keeps_handwriting(tmp_path):
    base = llama()
    places = {}
    for name, model in zip(("base", *ROLES), (base, *whole_experts(base)), strict=True):
        model.save_pretrained(tmp_path / name)
        places[name] = str(tmp_path / name)
    recipe = {
        "merge_method": "ties", "base_model": places["base"],
        "models": [{"model": places[role], "parameters": {"weight": 1.0}} for role in ROLES],
    }  # fmt: skip
    out = tmp_path / "out"
    hf_merge3h.merge_recipe(recipe, out, progress=False)
    card = out / "README.md"
    card.write_text(f"{card.read_text()}\nMine.\n")
    hf_merge3h.merge_recipe(recipe, out, progress=False, overwrite=True)
    assert card.read_text().endswith("\nMine.\n")
    assert AutoModelForCausalLM.from_pretrained(out)
