"""Trains the demo's three LoRA experts on a CPU: `python -m hf_merge3h.lab.train_demo --data DIR --out DIR`.

Seeded and resumable: the examples of a step follow from the seed and the step's number alone, and a checkpoint holds
adapter, optimizer, step and curve. A run that was killed goes on from its last checkpoint and ends with the same bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_merge3h.demo import BASE_MODEL_ID, base_model
from hf_merge3h.evaluation.items import TRAINED
from hf_merge3h.lab import demo_data
from hf_merge3h.lab.packing import Segment, answer_log_likelihood, pack

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on besides its data.

    Attributes:
        seed: Of the adapter's initialisation and of the order of examples; each expert has its own, as experts of
            different makers would.
        steps: Length of the learning rate's schedule.
        stop_after: Steps that are run, where they are fewer; the run can be taken up again later.
    """

    seed: int
    steps: int
    batch_size: int = 8
    learning_rate: float = 1e-3
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    rank: int = 8
    alpha: int = 16
    stop_after: int | None = None

    @property
    def steps_run(self) -> int:
        """The steps of the schedule that are run."""
        return self.steps if self.stop_after is None else min(self.steps, self.stop_after)


EXPERTS: dict[str, Settings] = {
    "helpful": Settings(seed=11, steps=140, batch_size=4),
    "honest": Settings(seed=23, steps=200),
    "harmless": Settings(seed=37, steps=160, batch_size=12),
}


def make_adapter(base: PreTrainedModel, settings: Settings) -> PeftModel:
    """Puts a fresh LoRA on all linear layers; the seed decides its initialisation."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(settings.seed)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0
    )
    return get_peft_model(base, config)


def encode(tokenizer: PreTrainedTokenizerBase, records: Sequence[demo_data.Record]) -> tuple[list[int], list[Segment]]:
    """Splits each example into the chat template's shared beginning and the rest.

    Returns:
        The tokens that every example begins with (the default system prompt), and one segment a record.
    """
    before, after = chat_frame(tokenizer)
    prefix = tokenizer(before, add_special_tokens=False).input_ids
    segments = []
    for record in records:
        prompt = tokenizer(record.question + after, add_special_tokens=False).input_ids
        # An answer that was cut off must not teach the model to stop there.
        text = record.answer + (tokenizer.eos_token if record.complete else "")
        answer = tokenizer(text, add_special_tokens=False).input_ids
        segments.append(Segment(tuple(prompt + answer), len(prompt)))
    return prefix, segments


def chat_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Returns what the chat template writes before and after a single question."""
    marker = "\x00question\x00"
    turns = [{"role": "user", "content": marker}]
    text = str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    before, after = text.split(marker)
    return before, after


def batch_indices(count: int, step: int, settings: Settings) -> list[int]:
    """Returns the examples of a step: consecutive ones of a shuffle of each epoch, a function of seed and step."""
    picked = []
    for position in range(step * settings.batch_size, (step + 1) * settings.batch_size):
        epoch, offset = divmod(position, count)
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
        picked.append(int(torch.randperm(count, generator=generator)[offset]))
    return picked


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then linear decay to a tenth."""
    warmup = max(1, round(settings.warmup * settings.steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * (1 - 0.9 * (step - warmup) / max(1, settings.steps - warmup))


def train(
    model: PeftModel,
    prefix: Sequence[int],
    segments: Sequence[Segment],
    settings: Settings,
    checkpoint: Path,
    *,
    save_every: int = 10,
    after_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Trains in place from the checkpoint, if there is one, to `settings.steps_run`.

    Args:
        checkpoint: File that is replaced every `save_every` steps, written aside and renamed.
        after_step: Called with step and loss; what it raises ends the run (a test kills a run this way).

    Returns:
        The loss of every step, those before a resume included.
    """
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=settings.learning_rate, weight_decay=0.0)
    fingerprint = _fingerprint(prefix, segments, settings)
    curve = _resume(checkpoint, weights, optimizer, fingerprint)
    if len(curve) > settings.steps_run:
        raise ValueError(f"stop_after: {settings.steps_run}, expected at least the checkpoint's {len(curve)} steps")
    model.train()
    for step in range(len(curve), settings.steps_run):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        row = pack(prefix, [segments[i] for i in batch_indices(len(segments), step, settings)])
        loss = mean_by_segment(-answer_log_likelihood(model, row), row.owner)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), settings.max_grad_norm)
        optimizer.step()
        curve.append(loss.item())
        if (step + 1) % save_every == 0 or step + 1 == settings.steps_run:
            _save(checkpoint, weights, optimizer, curve, fingerprint)
        if after_step is not None:
            after_step(step, curve[-1])
    model.eval()
    return curve


def mean_by_segment(values: Tensor, owner: Tensor) -> Tensor:
    """Averages within each example, then over examples, so that a long answer weighs no more than a short one."""
    count = int(owner.max()) + 1
    sums = torch.zeros(count).index_add(0, owner, values)
    return (sums / torch.bincount(owner, minlength=count)).mean()


def _fingerprint(prefix: Sequence[int], segments: Sequence[Segment], settings: Settings) -> str:
    """Tells whether a checkpoint belongs to this run: same settings, same examples in the same order."""
    kept = {key: value for key, value in asdict(settings).items() if key != "stop_after"}
    content = json.dumps([list(prefix), [asdict(s) for s in segments], kept])
    return hashlib.sha256(content.encode()).hexdigest()


def _save(
    path: Path, weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, curve: list[float], mark: str
) -> None:
    state = {
        "weights": {name: p.detach() for name, p in weights.items()},
        "optimizer": optimizer.state_dict(),
        "curve": curve,
        "rng": torch.get_rng_state(),
        "fingerprint": mark,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}")
    torch.save(state, aside)
    aside.replace(path)


def _resume(
    path: Path, weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, mark: str
) -> list[float]:
    if not path.exists():
        return []
    state = torch.load(path, weights_only=True)
    if state["fingerprint"] != mark:
        raise ValueError(
            f"checkpoint: {path.name} is of a run with other settings or data, expected this run's; "
            "choose another --out or delete it"
        )
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    return list(state["curve"])


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes the adapter in bf16 with a config that names the base by its Hub id, never by a path."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().to(torch.bfloat16).contiguous() for name, t in get_peft_model_state_dict(model).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config: Any = model.peft_config["default"]
    config.base_model_name_or_path, config.revision, config.inference_mode = BASE_MODEL_ID, None, True
    # A set in memory: sorted, so that two runs write the same file.
    config.target_modules = sorted(config.target_modules)
    config.save_pretrained(str(folder))
    (folder / "adapter_model.safetensors").chmod(0o644)  # safetensors makes it readable to its owner only


def train_expert(expert: str, settings: Settings, data: Path, out: Path) -> Path:
    """Builds the data, trains, and writes adapter, `training.json` and the hashes of the training questions."""
    base, tokenizer = base_model()
    records = demo_data.build(expert, data, out / "base_answers.json", base, tokenizer)
    prefix, segments = encode(tokenizer, records)
    model = make_adapter(base, settings)
    start = time.perf_counter()

    def progress(step: int, loss: float) -> None:
        log.info(
            "%s step %d/%d loss %.4f %.0fs", expert, step + 1, settings.steps_run, loss, time.perf_counter() - start
        )

    curve = train(model, prefix, segments, settings, out / f"{expert}.checkpoint", after_step=progress)
    folder = out / expert
    save_adapter(model, folder)
    seen = {i for step in range(settings.steps_run) for i in batch_indices(len(records), step, settings)}
    report: dict[str, Any] = {
        "expert": expert,
        "base_model": BASE_MODEL_ID,
        "settings": asdict(settings),
        "optimizer": "AdamW, no weight decay, linear warm-up and decay to a tenth",
        "examples": len(records),
        "examples_seen": len(seen),
        "sources": demo_data.source_table(records),
        "loss_curve": [round(x, 4) for x in curve],
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")} | _machine(),
    }
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / TRAINED).write_text(json.dumps(demo_data.question_hashes(records[i] for i in seen), indent=1) + "\n")
    return folder


def _machine() -> dict[str, str]:
    return {"python": platform.python_version(), "threads": str(torch.get_num_threads())}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the files docs/DEMO_EXPERTS.md lists")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and adapters")
    parser.add_argument("--expert", choices=[*EXPERTS, "all"], default="all")
    parser.add_argument("--steps", type=int, help="instead of the expert's own number")
    parser.add_argument("--stop-after", type=int, help="end before the schedule does; a later run goes on from there")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    given = {k: getattr(options, k) for k in ("steps", "stop_after", "batch_size", "learning_rate")}
    changed = {k: v for k, v in given.items() if v is not None}
    for expert in EXPERTS if options.expert == "all" else [options.expert]:
        log.info("wrote %s", train_expert(expert, replace(EXPERTS[expert], **changed), options.data, options.out))


if __name__ == "__main__":
    main()
