"""Supervised fine-tuning by TRL: whole models or LoRA, seeded, resumable, with its curve.

Prompts go through the chat template where there is one, else as "Question: ... Answer:", as the evaluation asks; the
loss is on the answers alone.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MergeError, SourceError, bad, show
from ...evaluation.items import TRAINED
from ..demo_data import NORMALISATION, question_hash
from ..mixing.records import Example, read_sets
from .bases import base_folder, base_id
from .precision import is_short, products, round_products
from .work import Job

if TYPE_CHECKING:
    from datasets import Dataset


def read_examples(name: str, path: Path) -> list[Example]:
    """Examples of a JSONL file, in whatever columns `mix_data` reads.

    Raises:
        SourceError: it is empty or no JSON lines.
    """
    from datasets import Dataset

    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read as JSON lines: {show(str(error))}") from None
    if not rows:
        raise bad(f"data.{name}", str(path), "at least one example", "the file is empty")
    return read_sets({name: Dataset.from_list(rows)})[name]


def trl_dataset(examples: Sequence[Example], chat: bool) -> Dataset:
    """Prompt and completion as TRL takes them: conversational where there is a chat template."""
    from datasets import Dataset

    if chat:
        rows = [{key: each.as_row()[key] for key in ("prompt", "completion")} for each in examples]
    else:
        rows = [
            {"prompt": f"Question: {each.question}\nAnswer:", "completion": f" {each.response}"} for each in examples
        ]
    return Dataset.from_list(rows)


def train(job: Job) -> dict[str, Any]:
    """Fine-tune a base, or the last stage of a chain, on one file; the folder holds a model or an adapter."""
    settings = job.settings
    data = job.inputs[settings["mixture"]] / "mixture.jsonl" if settings["mixture"] else Path(job.step.paths["data"])
    examples = read_examples(settings["role"], data)
    curve = _fit(job, examples)
    _write_facts(job, examples, curve)
    if not all(loss == loss and abs(loss) < float("inf") for loss in curve):
        raise MergeError(f"training diverged: loss {curve[-1]}; lower learning_rate={settings['learning_rate']}")
    shutil.rmtree(job.out / "checkpoints", ignore_errors=True)
    return {"steps": len(curve), "first_loss": curve[0], "last_loss": sum(curve[-10:]) / len(curve[-10:])}


def _fit(job: Job, examples: Sequence[Example]) -> list[float]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = job.settings
    source = base_folder(job.step.paths["base"])
    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    before = job.inputs[settings["after"]] if settings["after"] else None
    whole = settings["kind"] == "full"
    start = source if before is None or not whole else str(before)
    model: Any = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    torch.manual_seed(settings["init_seed"])
    if not whole:
        model = _adapted(model, settings, before)
    with warnings.catch_warnings():
        # PEFT 0.21.2 asks transformers 5.23 by an old name; neither is ours to mend
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        trainer = trainer_class()(
            model=model,
            args=_arguments(settings, job.out / "checkpoints"),
            train_dataset=trl_dataset(examples, tokenizer.chat_template is not None),
            processing_class=tokenizer,
        )
        trainer.train(resume_from_checkpoint=last_checkpoint(job.out / "checkpoints"))
    curve = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    _save(trainer.model, tokenizer, job, whole)
    return curve


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole; one that was being written when the run was killed is deleted."""
    whole = {}
    for path in folder.glob("checkpoint-*"):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))  # what is written last
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            whole[int(path.name.rpartition("-")[2])] = str(path)
    return whole[max(whole)] if whole else None


def trainer_class() -> Any:
    """TRL's trainer, which without Triton asks the head at every place: on a CPU here at those of the answers alone."""
    from torch.nn.functional import cross_entropy
    from trl import SFTTrainer

    class OfAnswers(SFTTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # type: ignore[no-untyped-def]
            if not self.args.use_cpu or return_outputs:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            labels = inputs["labels"][:, 1:]
            asked = labels != -100
            head = self.accelerator.unwrap_model(model).get_output_embeddings()
            with head.register_forward_pre_hook(lambda _, given: given[0][:, :-1][asked]):
                shown = {name: value for name, value in inputs.items() if name != "labels"}
                logits = model(**shown, use_cache=False).logits
            loss = cross_entropy(logits.float(), labels[asked], reduction="sum")
            return loss / (num_items_in_batch or asked.sum()).clamp(min=1)

    return OfAnswers


def _arguments(settings: Mapping[str, Any], folder: Path) -> Any:
    import torch
    from trl import SFTConfig

    cuda = torch.cuda.is_available()
    # TRL turns on checkpointing of activations by an old name, which transformers warns of; here it is off by the new
    checkpointing: dict[str, Any] = {"gradient_checkpointing": None, "activation_checkpointing": False}
    return SFTConfig(
        output_dir=str(folder),
        max_steps=settings["steps"],
        per_device_train_batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        warmup_steps=max(1, round(settings["warmup"] * settings["steps"])),
        lr_scheduler_type="linear",
        weight_decay=0.0,
        max_length=settings["max_tokens"],
        completion_only_loss=True,
        bf16=is_short(settings["precision"]),
        use_cpu=not cuda,
        seed=settings["seed"],
        data_seed=settings["seed"],
        logging_steps=1,
        save_steps=max(10, settings["steps"] // 4),
        save_total_limit=1,
        dataloader_pin_memory=cuda,
        report_to="none",
        disable_tqdm=True,
        **checkpointing,
    )


def _adapted(model: Any, settings: Mapping[str, Any], before: Path | None) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    if before is not None:
        return PeftModel.from_pretrained(model, str(before), is_trainable=True)
    config = LoraConfig(
        r=settings["rank"], lora_alpha=settings["alpha"], target_modules="all-linear", task_type="CAUSAL_LM",
        lora_dropout=0.0,
    )  # fmt: skip
    return get_peft_model(model, config)


def _save(model: Any, tokenizer: Any, job: Job, whole: bool) -> None:
    if not whole:
        config = model.peft_config["default"]
        config.base_model_name_or_path = base_id(job.step.paths["base"])
    model.save_pretrained(str(job.out))
    tokenizer.save_pretrained(str(job.out))
    (job.out / "README.md").unlink(missing_ok=True)  # PEFT's own card says less than training.json


def _write_facts(job: Job, examples: Sequence[Example], curve: Sequence[float]) -> None:
    facts = {
        "base_model": base_id(job.step.paths["base"]), "settings": dict(job.settings), "examples": len(examples),
        "loss_curve": [round(loss, 4) for loss in curve],
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }  # fmt: skip
    (job.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def questions(job: Job) -> None:
    """Hashes of all training questions, so that no model of the comparison is measured on one."""
    found = {question_hash(each.question) for role, path in job.step.paths.items()
             for each in read_examples(role, Path(path))}  # fmt: skip
    told = {"normalisation": NORMALISATION, "sha256": sorted(found)}
    (job.out / TRAINED).write_text(json.dumps(told) + "\n", encoding="utf-8")


def mix(job: Job) -> dict[str, Any]:
    """A mixture of the three sets, as JSON lines, and `mix_data`'s report."""
    from datasets import Dataset

    from ..mixing import mix_data

    settings = job.settings
    options = dict(settings["options"])
    if settings["strategy"] in ("score", "adaptive"):
        options |= _base(job.step.paths["base"], settings["precision"])
    sets = {
        role: Dataset.from_list([each.as_row() for each in read_examples(role, Path(job.step.paths[role]))])
        for role in settings["data"]
    }
    sets = {role: each.remove_columns(["source", "source_row"]) for role, each in sets.items()}
    with products(settings["precision"]):
        mixed, report = mix_data(
            sets, strategy=settings["strategy"], size=settings["size"], seed=settings["seed"], repeat=True,
            progress=False, **options,
        )  # fmt: skip
    lines = [
        json.dumps({"messages": [*row["prompt"], *row["completion"]], "source": row["source"]}, ensure_ascii=False)
        for row in mixed
    ]
    (job.out / "mixture.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = report.to_dict()
    (job.out / "mixture.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return {"proportions": told["proportions"], "drawn": told["drawn"], "cosines": told["cosines"]}


def _base(name: str, precision: str) -> dict[str, Any]:
    """The base, which scores and is never trained here, so that its weights can be rounded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = base_folder(name)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if is_short(precision):
        round_products(model)
    if torch.cuda.is_available():
        model = model.to("cuda")
    return {"model": model, "tokenizer": AutoTokenizer.from_pretrained(folder)}
