"""What `lab.yaml` says: which base, which data, what is trained, merged, mixed, tuned and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ...evaluation.suite import H

KINDS = ("full", "lora")
PARADIGMS = ("static", "continual")
STRATEGIES = ("heuristic", "score", "adaptive")
#: settings of training that are words -> which
WORDS = {"seeds": ("different", "shared"), "precision": ("auto", "float32", "bfloat16")}
#: Methods of the lab alone, which stand in for R-TSVM's two ideas without what is said to make them work (`controls`).
CONTROLS = ("random_weights", "uniform_cut")


@dataclass(frozen=True)
class Training:
    """How models are fine-tuned.

    Attributes:
        steps, batch_size: updates, and examples of each.
        learning_rate, warmup: of AdamW; share of the steps in which the rate rises, from where it falls to 0.
        max_tokens: longer examples are cut at their end.
        rank, alpha: of LoRA, on all linear layers.
        seeds: of LoRA's initialisation: a `different` one for each expert, as of different makers, or one `shared`.
        precision: of the products in a step; weights and their updates are float32 always. `auto` is bfloat16 on a GPU
            that has it and float32 elsewhere; processors with AVX-512 BF16 or AMX are twice as fast by `bfloat16`,
            older ones ten times slower.
        roles: H -> what is different for it: an expert that is no better than the base has to be trained further before
            anything is compared.
    """

    steps: int = 100
    batch_size: int = 8
    learning_rate: float = 2e-5
    warmup: float = 0.1
    max_tokens: int = 512
    rank: int = 8
    alpha: int = 16
    seeds: str = "different"
    precision: str = "auto"
    roles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, role: str) -> Training:
        """The settings of one expert."""
        return replace(self, roles={}, **self.roles.get(role, {}))

    @property
    def examples(self) -> int:
        """How many the three experts see together."""
        return sum(one.steps * one.batch_size for one in map(self.of, H))


@dataclass(frozen=True)
class Variant:
    """A merging method with its parameters, by a name of its own."""

    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tuning:
    """The search of each method's own scale on the development split.

    Attributes:
        trials, limit: of each search, and items a data set in each trial, at most.
        low, high: the range of the scale.
        methods: labels of those that are searched; all that have a scale by default.
    """

    trials: int = 8
    limit: int = 40
    low: float = 0.3
    high: float = 2.0
    methods: tuple[str, ...] = field(default_factory=tuple)

    @property
    def search(self) -> dict[str, Any]:
        """How each is searched, which methods are apart: a search holds for whichever else are."""
        return {name: value for name, value in asdict(self).items() if name != "methods"}


@dataclass(frozen=True)
class Lab:
    """A comparison.

    Attributes:
        folder: of the file; paths in it are relative to this.
        base: Hub id, folder, or the name of a model that a wheel holds (`bases.py`).
        data: H -> JSONL file with prompts and answers.
        experts: H -> model or adapter that exists; instead of `data` and `training`.
        training: kind (full, lora) -> how.
        paradigms: paradigm -> kinds.
        order: of the continual chain.
        mixtures: strategy -> options of `mix_data`.
        methods: label -> variant, measured on the test split.
        ablation: label -> variant, measured on the development split alone.
        suites: split -> suite file.
        datasets: of the suites, which are asked; all by default.
        limit: items a data set, at most.
        precision: of the products when models are asked, `float32` or `bfloat16` (weights are float32 always).
        keep: labels of merged models that are kept.
    """

    folder: Path
    name: str
    base: str
    suites: Mapping[str, Path]
    methods: Mapping[str, Variant]
    data: Mapping[str, Path] = field(default_factory=dict)
    experts: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Training] = field(default_factory=dict)
    paradigms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    order: tuple[str, ...] = H
    mixtures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ablation: Mapping[str, Variant] = field(default_factory=dict)
    tuning: Tuning | None = None
    datasets: tuple[str, ...] = ()
    limit: int | None = 100
    precision: str = "float32"
    seed: int = 0
    keep: tuple[str, ...] = ()
