"""Proportions that a small proxy run learns: more of what is still to be learnt, or of what the others agree with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...errors import MergeError, bad
from .proportions import normalised
from .records import Example
from .scoring import answer_losses, prompt_and_answer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Signal = Literal["excess_loss", "alignment"]


@dataclass(frozen=True)
class Proxy:
    """The proxy run.

    Attributes:
        signal: "excess_loss" (DoReMi) or "alignment" (conflict-aware, after DoGE).
        steps: of the proxy, and of the reference where one is trained.
        batch_size: examples of each set a step.
        learning_rate: of AdamW on the proxy's LoRA.
        rank: of the proxy's LoRA on all linear layers.
        step_size: of the exponentiated gradient on the proportions.
        smoothing: share of the uniform distribution that is mixed in at each step.
        max_tokens: longer examples are cut at their end.
    """

    signal: Signal = "excess_loss"
    steps: int = 50
    batch_size: int = 4
    learning_rate: float = 1e-3
    rank: int = 8
    step_size: float = 1.0
    smoothing: float = 1e-3
    max_tokens: int = 512

    def check(self) -> None:
        """Refuse what cannot be run."""
        if self.signal not in ("excess_loss", "alignment"):
            raise bad("signal", self.signal, "'excess_loss' or 'alignment'")
        for name in ("steps", "batch_size", "rank", "max_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise bad(name, value, "a whole number of at least 1")
        for name in ("learning_rate", "step_size"):
            if not getattr(self, name) > 0:
                raise bad(name, getattr(self, name), "a number above 0")
        if not 0 <= self.smoothing <= 1:
            raise bad("smoothing", self.smoothing, "a number in [0, 1]")


@dataclass
class Learnt:
    """What the proxy run found.

    Attributes:
        proportions: mean over the steps, one share a set.
        trajectory: the shares after each step.
        signals: what the update saw at each step: excess losses, or mean cosines.
        cosines: mean over the steps of the cosines between the sets' gradients ("alignment" only).
    """

    proportions: dict[str, float]
    trajectory: list[dict[str, float]] = field(default_factory=list)
    signals: list[dict[str, float]] = field(default_factory=list)
    cosines: list[list[float]] | None = None


def learn_proportions(
    sets: Mapping[str, Sequence[Example]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    proxy: Proxy,
    *,
    seed: int,
    reference: PreTrainedModel | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> Learnt:
    """Train a proxy on all sets at once, and move the proportions by what it shows.

    Excess loss (group DRO of DoReMi), with l the loss of an answer's token and reference a model trained on equal
    parts:

        lambda_i = mean over the tokens of set i of max(l_proxy - l_reference, 0)
        p_i <- p_i exp(step_size lambda_i), normalised, then (1 - smoothing) p + smoothing / k

    Alignment: lambda_i is the mean cosine between the gradient of set i and those of the other sets, so that a set that
    pulls against the others loses weight. The proxy descends on sum_i p_i loss_i in both.

    Note:
        DoReMi reads its domain weights from a run over pre-training data, we from fine-tuning a LoRA. DoGE weighs by
        inner products; ours are cosines, for answers of three kinds have gradients of very different lengths.

    Args:
        sets: name -> examples.
        model: the base; it is copied, never changed.
        tokenizer: its tokenizer.
        proxy: settings of the run.
        seed: of initialisation and batches.
        reference: "excess_loss" compares with this model; None trains one, from the same start, on equal parts.
        tell: called after each step, reference's first.

    Reference:
        Xie et al., "DoReMi: optimizing data mixtures speeds up language model pretraining", arXiv:2305.10429,
        algorithm 1; Fan et al., "DoGE: domain reweighting with generalization estimation", arXiv:2310.15393.
    """
    proxy.check()
    names = list(sets)
    tokens = {name: [_encode(tokenizer, example, proxy.max_tokens) for example in sets[name]] for name in names}
    batches = [_batch(sets, proxy.batch_size, seed, step) for step in range(proxy.steps)]
    uniform = dict.fromkeys(names, 1 / len(names))
    if proxy.signal == "excess_loss" and reference is None:
        trained = _Proxy(model, proxy, seed)
        for step, batch in enumerate(batches):
            trained.descend([torch.cat(trained.losses(tokens[name], batch[name])).mean() for name in names], uniform)
            tell(step)
        reference = trained.model
    learner = _Proxy(model, proxy, seed)
    found, shares, matrices = Learnt({}), dict(uniform), []
    for step, batch in enumerate(batches):
        losses = {name: learner.losses(tokens[name], batch[name]) for name in names}
        means = [torch.cat(losses[name]).mean() for name in names]
        if proxy.signal == "excess_loss":
            assert reference is not None
            signal = [_excess(losses[name], _reference_losses(reference, tokens[name], batch[name])) for name in names]
        else:
            matrices.append(learner.cosines(means))
            signal = [float(np.mean(np.delete(matrices[-1][i], i))) for i in range(len(names))]
        shares = _moved(shares, dict(zip(names, signal, strict=True)), proxy)
        learner.descend(means, shares)
        found.trajectory.append(dict(shares))
        found.signals.append(dict(zip(names, signal, strict=True)))
        tell(step)
    found.proportions = normalised(
        {name: math.fsum(each[name] for each in found.trajectory) / proxy.steps for name in names}
    )
    found.cosines = np.mean(matrices, axis=0).tolist() if matrices else None
    return found


class _Proxy:
    """A copy of the base with a fresh LoRA, and its optimizer."""

    def __init__(self, model: PreTrainedModel, proxy: Proxy, seed: int) -> None:
        from peft import LoraConfig, get_peft_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LoraConfig(r=proxy.rank, lora_alpha=2 * proxy.rank, target_modules="all-linear", lora_dropout=0.0)
            self.model: Any = get_peft_model(copy.deepcopy(model), config).eval()
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=proxy.learning_rate, weight_decay=0.0)

    def losses(self, tokens: Sequence[tuple[Tensor, int]], rows: Sequence[int]) -> list[Tensor]:
        """Losses of the answers' tokens, with their graph."""
        return [answer_losses(self.model, tokens[row][0].to(self.model.device), tokens[row][1]) for row in rows]

    def cosines(self, losses: Sequence[Tensor]) -> np.ndarray:
        """Cosines between the gradients of the sets' losses: [k, k]; a zero gradient's are 0."""
        gradients = []
        for loss in losses:
            parts = torch.autograd.grad(loss, self.weights, retain_graph=True)
            gradients.append(torch.cat([part.flatten() for part in parts]).double())
        stack = torch.stack(gradients)
        norms = stack.norm(dim=1, keepdim=True)
        unit = torch.where(norms > 0, stack / norms.clamp_min(torch.finfo(torch.float64).tiny), stack)
        return (unit @ unit.T).cpu().numpy()

    def descend(self, losses: Sequence[Tensor], shares: Mapping[str, float]) -> None:
        """One step on the losses weighted by the shares."""
        loss = torch.stack([share * each for share, each in zip(shares.values(), losses, strict=True)]).sum()
        if not torch.isfinite(loss):
            raise MergeError(f"mix_data: the proxy's loss became {loss.item()}: lower learning_rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()


def _encode(tokenizer: PreTrainedTokenizerBase, example: Example, limit: int) -> tuple[Tensor, int]:
    prompt, answer = prompt_and_answer(tokenizer, example)
    answer = answer[: max(1, limit // 2)]
    prompt = prompt[-(limit - len(answer)) :] if limit > len(answer) else prompt[-1:]
    return torch.tensor([prompt + answer]), len(prompt)


def _batch(sets: Mapping[str, Sequence[Example]], size: int, seed: int, step: int) -> dict[str, list[int]]:
    """Rows of each set at a step, from seed and step alone."""
    generator = np.random.default_rng([seed, step])
    return {name: generator.integers(len(examples), size=size).tolist() for name, examples in sets.items()}


@torch.no_grad()
def _reference_losses(model: Any, tokens: Sequence[tuple[Tensor, int]], rows: Sequence[int]) -> list[Tensor]:
    return [answer_losses(model, tokens[row][0].to(model.device), tokens[row][1]) for row in rows]


def _excess(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return float((torch.cat(list(ours)).detach() - torch.cat(list(theirs))).clamp_min(0).mean())


def _moved(shares: Mapping[str, float], signal: Mapping[str, float], proxy: Proxy) -> dict[str, float]:
    """The exponentiated-gradient step."""
    moved = normalised({name: share * math.exp(proxy.step_size * signal[name]) for name, share in shares.items()})
    return {name: (1 - proxy.smoothing) * share + proxy.smoothing / len(moved) for name, share in moved.items()}
