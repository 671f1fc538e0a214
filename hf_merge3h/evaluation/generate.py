"""Greedy or sampled answers, in batches sorted by length and padded on the left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import MergeError
from .models import Opened
from .pace import Deadline
from .suite import Task

T = TypeVar("T")
_TAIL = 24  # tokens at an answer's end in which a stop string is looked for


@dataclass
class Batching:
    """How many at once; halved where memory does not do, for the rest of the run."""

    size: int
    tell: Callable[[str], None]
    halved: list[str] = field(default_factory=list)

    def run(self, items: Sequence[T], work: Callable[[Sequence[T]], list[Any]]) -> Iterator[list[Any]]:
        """What `work` gives for the items, in parts that fit into memory, as they are done.

        Raises:
            MergeError: not even one item fits.
        """
        done = 0
        while done < len(items):
            part = items[done : done + self.size]
            try:
                found = work(part)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise MergeError(
                        "one item alone does not fit into memory; shorten it or use a smaller model"
                    ) from error
                self.size = max(1, len(part) // 2)
                self.halved.append(f"out of memory: batches of {self.size} from here on")
                self.tell(self.halved[-1])
                error.__traceback__ = None  # its frames hold the tensors that did not fit
                _free()
            else:
                done += len(part)
                yield found


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not do."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error).lower() for sign in ("out of memory", "can't allocate memory", "defaultcpuallocator")
    )


def _free() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices by length, the longest first, so that what does not fit shows at once; ties in their order.

    >>> list(batches([3, 9, 4], 2))
    [[1, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def prompt_text(task: Task, question: str, opened: Opened) -> str:
    """A question through the chat template, or behind worked examples where there is none."""
    if opened.chat:
        messages = [{"role": "user", "content": question}]
        return str(opened.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    shown = "".join(f"Question: {shot['question']}\nAnswer: {shot['answer']}\n\n" for shot in task.few_shot)
    return f"{shown}Question: {question}\nAnswer:"


def encode(opened: Opened, text: str) -> list[int]:
    """Token ids; a chat template has put the special tokens where they belong already."""
    return list(opened.tokenizer(text, add_special_tokens=not opened.chat).input_ids)


def answers(
    opened: Opened, task: Task, prompts: Sequence[Sequence[int]], seed: int, deadline: Deadline
) -> list[list[list[str]]]:
    """`task.samples` answers of each model to each prompt of one batch.

    Raises:
        OutOfTimeError: the time was up before they ended: half an answer is none.
    """
    import torch

    model, tokenizer = opened.model, opened.tokenizer
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    rows = [*prompts] * opened.count
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    samples = task.samples if task.temperature > 0 else 1
    stops = () if opened.chat else task.stop
    options: dict[str, Any] = {"max_new_tokens": task.max_new_tokens, "pad_token_id": pad, "do_sample": False}
    if task.temperature > 0:
        options |= {"do_sample": True, "temperature": task.temperature, "num_return_sequences": task.samples}
    criteria = [_stop_late(deadline), *([_stop_at(tokenizer, stops, width)] if stops else [])]
    # whoever saved the model may have left sampling settings in it, which greedy search would warn of
    config = _plain_config(model, options)
    with torch.inference_mode(), torch.random.fork_rng(enabled=task.temperature > 0):
        if task.temperature > 0:
            torch.manual_seed(seed)
        output = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, stopping_criteria=criteria,
            **opened.named(samples * len(prompts)),
        )  # type: ignore[operator]  # fmt: skip
    texts = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    texts = [_cut(text, stops) for text in texts]
    found = [texts[start : start + samples] for start in range(0, len(texts), samples)]
    return [found[start : start + len(prompts)] for start in range(0, len(found), len(prompts))]


def _plain_config(model: Any, options: dict[str, Any]) -> Any:
    from transformers import GenerationConfig

    own = model.generation_config
    kept = {name: getattr(own, name, None) for name in ("bos_token_id", "eos_token_id", "decoder_start_token_id")}
    return GenerationConfig(**{name: value for name, value in kept.items() if value is not None}, **options)


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text.strip() if stops else text


def _stop_late(deadline: Deadline) -> Any:
    """Ends the work when the time is up."""
    import torch

    def stopped(ids: Any, scores: Any, **_: Any) -> Any:
        deadline.check()
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    return stopped


def _stop_at(tokenizer: Any, stops: Sequence[str], start: int) -> Any:
    """Ends a row when one of the texts stands in its tail."""
    import torch

    done: dict[int, bool] = {}

    def stopped(ids: Any, scores: Any, **_: Any) -> Any:
        for row in range(len(ids)):
            if not done.get(row):
                tail = tokenizer.decode(ids[row, max(start, ids.shape[1] - _TAIL) :])
                done[row] = any(stop in tail for stop in stops)
        return torch.tensor([done[row] for row in range(len(ids))], device=ids.device)

    return stopped
