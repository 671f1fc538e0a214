"""`mix_data`: the other way to one balanced model, training once on mixed data instead of merging experts."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...errors import bad, nearest
from .cleaning import Cleaned, Cleaning, clean
from .proportions import as_given, by_temperature, check_size, draw
from .records import Example, read_sets
from .report import MixReport

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .scoring import Scorer

#: What must be said with every mixture.
NOTE = (
    "the abstract of arXiv:2502.06876 compares three data-mixture techniques and does not name them; which three these "
    "are here is our choice"
)


class Mixture(NamedTuple):
    """A mixed set, and what it is made of."""

    dataset: Dataset
    report: MixReport


def mix_data(
    datasets: Mapping[str, Dataset],
    *,
    strategy: str = "heuristic",
    size: int | None = None,
    seed: int = 0,
    repeat: bool = False,
    columns: Mapping[str, str] | None = None,
    min_words: int = 3,
    max_words: int = 2000,
    language: str | None = None,
    near_duplicates: float | None = 0.8,
    progress: bool = True,
    **options: Any,
) -> Mixture:
    """Mix training sets, one for each H, into one.

    Args:
        datasets: role (or any name) -> `datasets.Dataset` with `messages`, or with prompt and response columns.
        strategy: "heuristic", "score" or "adaptive".
        size: rows of the mixture; None for as many as the proportions allow without repeating one.
        seed: of drawing, and of the proxy's run.
        repeat: rows may be drawn more than once where a set is too small for its share.
        columns: {"prompt": ..., "response": ...} or {"messages": ...}, where the sets call them otherwise.
        min_words, max_words, language, near_duplicates: cleaning, before everything else (see `Cleaning`).
        progress: show a bar while a proxy trains.
        **options: of the strategy.
            heuristic: `proportions` {name: share}, or `temperature` (1 keeps the sets' own proportions, infinity, the
            default, makes all equal).
            score: `scorer`, a function of examples or one a set (higher is better, NaN never); without it
            `InstructionFollowingDifficulty` of `model` and `tokenizer`. `proportions` or `temperature` set the quotas;
            `candidates` rows of each set, drawn by the seed, are scored, all by default (two passes over each).
            adaptive: `model`, `tokenizer`, `reference`, and the settings of `adaptive.Proxy`; `signal="alignment"` is
            the conflict-aware variant.

    Returns:
        `dataset` (prompt and completion in TRL's conversational form, source, source_row; shuffled) and `report`.

    Raises:
        RequestError: the request cannot be carried out.

    Example:
        >>> from datasets import Dataset
        >>> rows = [{"prompt": f"What is {i} plus {i}?", "completion": f"It is {2 * i}."} for i in range(10)]
        >>> mixed, report = mix_data({"helpfulness": Dataset.from_list(rows)}, size=4, near_duplicates=None)
        >>> len(mixed), report.drawn
        (4, {'helpfulness': 4})

    Reference:
        heuristic: temperature scaling, arXiv:1907.05019; score: arXiv:2308.12032 (the default scorer); adaptive:
        arXiv:2305.10429 and arXiv:2310.15393.

    Note:
        The abstract of arXiv:2502.06876 does not name the three techniques that it compares; these are our choice.
    """
    if not isinstance(datasets, Mapping) or not datasets:
        raise bad("datasets", type(datasets).__name__, "a dict of name and datasets.Dataset, not empty")
    if strategy not in _STRATEGIES:
        raise bad("strategy", strategy, "a known strategy", nearest(str(strategy), _STRATEGIES))
    choose = _STRATEGIES[strategy]
    _check_options(strategy, choose, options)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise bad("seed", seed, "a whole number of 0 or more")
    if near_duplicates is not None and not 0 < near_duplicates <= 1:
        raise bad("near_duplicates", near_duplicates, "a number in (0, 1], or None")
    sets = read_sets(datasets, columns)
    cleaned = clean(sets, Cleaning(min_words, max_words, language, near_duplicates))
    request = _Request(cleaned, size, seed, repeat, progress)
    chosen, shares, facts = choose(request, **options)
    picked = [example for name in chosen for example in chosen[name]]
    order = np.random.default_rng([seed, 1]).permutation(len(picked))
    report = MixReport(
        strategy=strategy,
        reference=_SOURCES[strategy],
        note=NOTE,
        seed=seed,
        proportions=shares,
        available={name: len(examples) for name, examples in sets.items()},
        kept={name: len(examples) for name, examples in cleaned.kept.items()},
        drawn={name: len(chosen[name]) for name in sets},
        dropped=cleaned.dropped,
        overlaps=cleaned.overlaps,
        **facts,
    )
    return Mixture(_as_dataset([picked[i] for i in order]), report)


class _Request(NamedTuple):
    cleaned: Cleaned
    size: int | None
    seed: int
    repeat: bool
    progress: bool

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(examples) for name, examples in self.cleaned.kept.items()}

    def shares(self, proportions: Mapping[str, float] | None, temperature: float) -> dict[str, float]:
        if proportions is not None:
            return as_given(proportions, list(self.sizes))
        return by_temperature(self.sizes, temperature)

    def draw(self, shares: Mapping[str, float]) -> dict[str, list[Example]]:
        counts = check_size(shares, self.sizes, self.size, self.repeat)
        generator = np.random.default_rng([self.seed, 0])
        return {name: draw(examples, counts[name], generator) for name, examples in self.cleaned.kept.items()}

    def candidates(self, count: int | None) -> Mapping[str, Sequence[Example]]:
        """So many rows of each set, in their order; all where a set has no more."""
        if count is None:
            return self.cleaned.kept
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise bad("candidates", count, "a whole number, 1 or more")
        generator = np.random.default_rng([self.seed, 2])
        orders = {name: generator.permutation(len(each))[:count] for name, each in self.cleaned.kept.items()}
        return {name: [self.cleaned.kept[name][i] for i in sorted(order)] for name, order in orders.items()}


_Chosen = tuple[dict[str, list[Example]], dict[str, float], dict[str, Any]]


def _heuristic(
    request: _Request, *, proportions: Mapping[str, float] | None = None, temperature: float = math.inf
) -> _Chosen:
    shares = request.shares(proportions, temperature)
    return request.draw(shares), shares, {"settings": {"temperature": None if proportions else str(temperature)}}


def _score(
    request: _Request,
    *,
    scorer: Scorer | Mapping[str, Scorer] | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    proportions: Mapping[str, float] | None = None,
    temperature: float = math.inf,
    candidates: int | None = None,
) -> _Chosen:
    from .scoring import InstructionFollowingDifficulty, score_sets

    if scorer is None:
        if model is None or tokenizer is None:
            raise bad("scorer", None, "a scorer, or model and tokenizer for instruction-following difficulty")
        scorer = InstructionFollowingDifficulty(model, tokenizer)
    shares, sets = request.shares(proportions, temperature), request.candidates(candidates)
    # before the scoring, which may be long
    check_size(shares, {name: len(each) for name, each in sets.items()}, request.size, request.repeat)
    scores = score_sets(sets, scorer)
    usable = {name: int(np.isfinite(each).sum()) for name, each in scores.items()}
    none = [name for name, count in usable.items() if not count]
    if none:
        raise bad("scorer", none, "at least one finite score in each set")
    counts = check_size(shares, usable, request.size, request.repeat)
    chosen, facts = {}, {}
    for name, examples in sets.items():
        # Descending, ties by row; what has no score comes last.
        order = np.argsort(-np.nan_to_num(scores[name], nan=-np.inf), kind="stable")[: usable[name]]
        ranked = [int(i) for i in order]
        picked = (ranked * (counts[name] // len(ranked) + 1))[: counts[name]]
        chosen[name] = [examples[i] for i in sorted(picked)]
        finite = scores[name][ranked]
        facts[name] = {
            "least": float(finite.min()),
            "median": float(np.median(finite)),
            "greatest": float(finite.max()),
            "cutoff": float(scores[name][picked].min()) if picked else math.inf,
            "unscored": len(examples) - usable[name],
        }
    return chosen, shares, {"scores": facts, "settings": {"scorer": _names_of(scorer), "candidates": candidates}}


def _names_of(scorer: Scorer | Mapping[str, Scorer]) -> Any:
    if isinstance(scorer, Mapping):
        return {name: _names_of(each) for name, each in scorer.items()}
    return getattr(scorer, "__name__", type(scorer).__name__)


def _adaptive(
    request: _Request,
    *,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    reference: PreTrainedModel | None = None,
    **settings: Any,
) -> _Chosen:
    from huggingface_hub.utils import tqdm

    from .adaptive import Proxy, learn_proportions

    known = [each.name for each in dataclasses.fields(Proxy)]
    for name in settings:
        if name not in known:
            raise bad(name, settings[name], "no such option of strategy 'adaptive'", nearest(name, known))
    if model is None or tokenizer is None:
        raise bad("model", model, "the base model that the mixture will train, and its tokenizer")
    if len(request.sizes) < 2:
        raise bad("datasets", list(request.sizes), "two sets or more for strategy 'adaptive'")
    proxy = Proxy(**settings)
    proxy.check()
    runs = 2 if proxy.signal == "excess_loss" and reference is None else 1
    with tqdm(total=runs * proxy.steps, desc="learning proportions", disable=not request.progress, leave=False) as bar:
        learnt = learn_proportions(
            request.cleaned.kept, model, tokenizer, proxy, seed=request.seed, reference=reference,
            tell=lambda _: bar.update(),
        )  # fmt: skip
    facts = {
        "trajectory": learnt.trajectory,
        "signals": learnt.signals,
        "cosines": learnt.cosines,
        "settings": dataclasses.asdict(proxy),
    }
    return request.draw(learnt.proportions), learnt.proportions, facts


_STRATEGIES: dict[str, Callable[..., _Chosen]] = {"heuristic": _heuristic, "score": _score, "adaptive": _adaptive}
_SOURCES = {
    "heuristic": "temperature scaling, arXiv:1907.05019",
    "score": "selection by score; instruction-following difficulty, arXiv:2308.12032, unless another is given",
    "adaptive": "DoReMi, arXiv:2305.10429; signal='alignment' after DoGE, arXiv:2310.15393",
}


def _check_options(strategy: str, choose: Callable[..., _Chosen], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(choose).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return
    known = [name for name in parameters if name != "request"]
    for name in options:
        if name not in known:
            raise bad(name, options[name], f"no such option of strategy {strategy!r}", nearest(name, known))


def _as_dataset(examples: Sequence[Example]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_list([example.as_row() for example in examples])
