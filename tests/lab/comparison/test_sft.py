"""Training: TRL's loss with the head asked for the answers alone, chains, and where adapters start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_merge3h.lab.comparison import sft
from hf_merge3h.lab.comparison.reading import read_lab
from hf_merge3h.lab.comparison.steps import graph_of

from . import small


def trained(folder, kind, steps=4):
    """Curve and weights of the first H's expert."""
    training = {kind: {"steps": steps, "batch_size": 3, "learning_rate": 1e-3}}
    graph = graph_of(read_lab(small.lab(folder, training=training, paradigms={"static": [kind]})), folder / "out")
    name = f"train/static/{kind}/helpfulness"
    small.do(graph, [name])
    facts = json.loads((graph.folder(name) / "training.json").read_text())
    return facts["loss_curve"], load_file(next(graph.folder(name).glob("*model.safetensors")))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_loss_of_the_answers_alone_is_trls(tmp_path, monkeypatch, kind):
    from transformers import LlamaForCausalLM
    from trl import SFTTrainer

    asked = []
    forward = LlamaForCausalLM.forward

    def watched(self, *arguments, **options):
        found = forward(self, *arguments, **options)
        asked.append(found.logits.shape[:-1].numel())
        return found

    monkeypatch.setattr(LlamaForCausalLM, "forward", watched)
    curve, weights = trained(tmp_path / "ours", kind)
    answers = len("It is 0.") + 3  # letters are tokens here; some numbers have two, and the end is one
    assert len(asked) == 4
    assert max(asked) <= 3 * answers

    monkeypatch.setattr(sft, "trainer_class", lambda: SFTTrainer)
    known_curve, known = trained(tmp_path / "trl", kind)
    assert curve == pytest.approx(known_curve, abs=2e-4)
    assert max(curve) > 2
    assert weights.keys() == known.keys()
    for name, tensor in known.items():
        assert torch.allclose(weights[name], tensor, atol=2e-4), name


@pytest.mark.parametrize("written", ["", '{"epoch": 1.0, "glo'], ids=["none", "half"])
def test_training_that_was_killed_while_it_wrote_a_checkpoint_goes_on_from_the_one_before(
    tmp_path, monkeypatch, written
):
    from transformers import TrainerState

    known_curve, known = trained(tmp_path / "known", "full", steps=20)
    save, begun = TrainerState.save_to_json, []

    def killed(self, path):
        begun.append(self.global_step)
        if self.global_step == 20 and begun.count(20) == 1:
            if written:
                Path(path).write_text(written)
            raise KeyboardInterrupt
        save(self, path)

    monkeypatch.setattr(TrainerState, "save_to_json", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "ours", "full", steps=20)
    curve, weights = trained(tmp_path / "ours", "full", steps=20)
    assert begun == [10, 20, 20]
    assert curve == pytest.approx(known_curve, abs=1e-6)
    assert all(torch.equal(weights[name], tensor) for name, tensor in known.items())


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_stages_of_a_chain_add_up_to_its_end(tmp_path, kind):
    training = {kind: {"steps": 2, "batch_size": 2, "learning_rate": 1e-2}}
    file = small.lab(tmp_path, training=training, paradigms={"continual": [kind]}, methods={"task_arithmetic": {}})
    graph = graph_of(read_lab(file), tmp_path / "out")
    names = [name for name in graph.steps if name.startswith(("train", "stage", "questions"))]
    assert [name.split("/")[0] for name in names] == ["questions", "train", "train", "train", "stage", "stage"]
    small.do(graph, [*names, "measure/test/continual/full/stages/task_arithmetic".replace("full", kind)])
    merged = json.loads(
        (graph.folder(f"measure/test/continual/{kind}/stages/task_arithmetic") / "merge.json").read_text()
    )
    assert len(merged["tensors"]) > 5
    base = load_file(tmp_path / "base" / "model.safetensors")
    last = weights(tmp_path / "base", graph.folder(f"train/continual/{kind}/3-harmlessness"))
    stages = [graph.folder(f"train/continual/{kind}/1-helpfulness"),
              *(graph.folder(f"stage/continual/{kind}/{role}") for role in ("honesty", "harmlessness"))]  # fmt: skip
    parts = [weights(tmp_path / "base", folder) for folder in stages]
    for name, tensor in base.items():
        total = tensor + sum(part[name] - tensor for part in parts)
        assert torch.allclose(total, last[name], atol=2e-6), name


def weights(base: Path, folder: Path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if not (folder / "adapter_config.json").exists():
        return load_file(folder / "model.safetensors")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder)).merge_and_unload()
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def test_lora_seeds_are_shared_or_apart(tmp_path):
    for seeds, equal in (("shared", True), ("different", False)):
        training = {"lora": {"steps": 1, "batch_size": 1, "seeds": seeds}}
        file = small.lab(tmp_path, training=training, paradigms={"static": ["lora"]})
        graph = graph_of(read_lab(file), tmp_path / "out")
        found = {step.settings["init_seed"] for step in graph.steps.values() if step.action == "train"}
        assert (len(found) == 1) is equal
