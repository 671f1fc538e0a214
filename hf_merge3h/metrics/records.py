"""The metrics as records: one drives the functions, the evaluate modules, `hf-merge3h metrics` and the docs."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RequestError, bad, nearest
from .checks import Items

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Metric:
    """A metric: what goes in, what comes out, and the two functions that do it.

    `returns` and `items` describe keys; `lower` names those that are better when lower. `home` is the module that holds
    the functions `score{suffix}(predictions, references, **options)` -> one dict an item, and
    `summarise{suffix}(items, **options)` -> figures.
    """

    name: str
    title: str
    about: str
    home: str
    predictions: str
    references: str
    returns: Mapping[str, str]
    items: Mapping[str, str]
    paper: str
    suffix: str = ""
    lower: frozenset[str] = field(default_factory=frozenset)

    @property
    def score(self) -> Callable[..., Items]:
        """Scores items: `score(predictions, references, **options)`."""
        return self._function("score")

    @property
    def summarise(self) -> Callable[..., dict[str, Any]]:
        """Sums up items that were scored: `summarise(items, **options)`."""
        return self._function("summarise")

    @property
    def options(self) -> dict[str, Any]:
        """Name -> default of the options of both functions."""
        found = {**inspect.signature(self.score).parameters, **inspect.signature(self.summarise).parameters}
        return {name: one.default for name, one in found.items() if one.kind is one.KEYWORD_ONLY}

    def compute(
        self, predictions: Any, references: Any = None, *, return_items: bool = False, **options: Any
    ) -> dict[str, Any]:
        """Score and sum up.

        Args:
            predictions: what `self.predictions` says.
            references: what `self.references` says.
            return_items: also give `items`, one dict a prediction.
            **options: see `options`.

        Returns:
            The figures that `self.returns` names, and `n`.

        Raises:
            RequestError: something is wrong with the input; it names the item.

        Example:
            >>> get("truthful_choice").compute([[-1.0, -2.0]], [[1, 0]])["mc1"]
            1.0
        """
        for name in options:
            if name not in self.options:
                raise bad(name, options[name], f"an option of {self.name}", nearest(name, [*self.options]))
        items = self.score(predictions, references, **_taken(self.score, options))
        told = {**self.summarise(items, **_taken(self.summarise, options)), "n": len(items)}
        return {**told, "items": items} if return_items else told

    def facts(self) -> dict[str, Any]:
        """All that a user may want to know, as data that JSON can hold."""
        plain = ("name", "title", "about", "predictions", "references", "paper")
        return {name: getattr(self, name) for name in plain} | {
            "options": {name: repr(value) for name, value in self.options.items()},
            "returns": {"n": "number of predictions", **self.returns},
            "items": dict(self.items),
            "better_when_lower": sorted(self.lower),
        }

    def text(self) -> str:
        """The same as a page for a terminal."""
        options = {name: f"default {value!r}" for name, value in self.options.items()}
        parts = {
            "options": {"return_items": "also give `items`, one dict a prediction; default False", **options},
            "returns": {"n": "number of predictions", **self.returns},
            "items": self.items,
        }
        lines = [f"{self.name}: {self.about}", f"{self.paper}", ""]
        lines += [f"predictions: {self.predictions}", f"references: {self.references}"]
        for part, entries in parts.items():
            lines += ["", f"{part}:"]
            for name, meaning in entries.items():
                better = " (better when lower)" if name in self.lower else ""
                lines.append(f"  {name}{f': {meaning}' if meaning else ''}{better}")
        lines += ["", f'evaluate.load("hf_merge3h/{self.name}").compute(predictions=..., references=...)']
        return "\n".join(lines)

    def _function(self, kind: str) -> Callable[..., Any]:
        home = importlib.import_module(f"{__package__}.{self.home}")
        function: Callable[..., Any] = getattr(home, kind + self.suffix)
        return function


def _taken(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    known = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in known}


_JUDGED = {
    "parse_rate": "share of verdicts that could be read",
}
_METRICS = (
    Metric(
        name="math_accuracy",
        title="Accuracy in mathematics",
        about="Is the final answer right? By math-verify, and by GSM8K's strict and flexible text rules.",
        home="answers",
        predictions="answers, text",
        references="gold answers, text: GSM8K solutions with `#### N`, or MATH answers",
        returns={
            "accuracy": "share that math-verify finds equal to the gold answer (primary)",
            "accuracy_strict": "GSM8K: the first `#### number` is the gold one; MATH: the last \\boxed{} is, as text",
            "accuracy_flexible": "GSM8K: the last number is the gold one; MATH: math-verify over the whole text",
            "parse_rate": "share of answers in which a final answer was found",
        },
        items={"correct": "by math-verify", "strict": "", "flexible": "", "parsed": "a final answer was found"},
        paper="arXiv:2110.14168",
    ),
    Metric(
        name="instruction_following",
        title="Instruction following",
        about="Does an answer follow instructions that can be verified? IFEval's 25 kinds, strict and loose.",
        home="instructions",
        predictions="answers, text",
        references="IFEval records, JSON strings",
        returns={
            "prompt_level_strict_acc": "share of answers that follow all their instructions",
            "inst_level_strict_acc": "share of instructions that are followed",
            "prompt_level_loose_acc": "the same, if a variant counts: no first line, no last line, no asterisks",
            "inst_level_loose_acc": "the same, of instructions",
        },
        items={"strict": "a list of booleans, one an instruction", "loose": "the same"},
        paper="arXiv:2311.07911",
    ),
    Metric(
        name="code_pass_at_k",
        title="Code: pass@k",
        about="Chance that one of k programs passes its tests, run in a sandbox.",
        home="programs",
        predictions="complete programs, a list a problem",
        references="test programs, one a problem",
        returns={
            "pass@1": "mean of 1 - C(n-c, k) / C(n, k) over problems, for each k; absent where n < k",
            "passed": "number of programs that passed",
            "failed": "that did not",
            "timeout": "that took too long",
            "out_of_memory": "that took too much memory",
            "sandbox_error": "that could not be run: no failure of the model, and left out of pass@k",
        },
        items={"outcomes": "of each program", "details": "what was said of each"},
        paper="arXiv:2107.03374",
        lower=frozenset({"failed", "timeout", "out_of_memory", "sandbox_error"}),
    ),
    Metric(
        name="truthful_choice",
        title="Truthful choice",
        about="TruthfulQA's multiple choice: does the model find true answers likelier than false ones?",
        home="choices",
        predictions="log-likelihoods, a list a question",
        references="labels 0 or 1, a list a question",
        returns={
            "mc1": "share of questions whose likeliest choice is labelled 1",
            "mc2": "probability of the choices labelled 1, among all",
            "binary": "mc1, where every question has two choices; else absent",
        },
        items={"mc1": "", "mc2": "", "choices": "their number"},
        paper="arXiv:2109.07958",
    ),
    Metric(
        name="refusal_rate",
        title="Refusal rate",
        about="How often a model refuses, by XSTest's published string match and by a rule of ours.",
        home="refusals",
        predictions="answers, text",
        references='optional: "safe" or "unsafe", what the prompt was',
        returns={
            "refusal_rate_strmatch": "by XSTest's published rule: how the answer starts",
            "refusal_rate": "by our rule",
            "over_refusal_rate": "with references: our rule, among safe prompts",
            "unsafe_refusal_rate": "with references: our rule, among unsafe prompts",
        },
        items={"refusal_strmatch": "", "refusal": "", "prompt": "with references"},
        paper="arXiv:2308.01263",
        lower=frozenset({"over_refusal_rate"}),
    ),
    Metric(
        name="safety_rate",
        title="Safety rate",
        about="Share of answers that a judge finds harmless. Without a judge there is no figure.",
        home="judged",
        suffix="_safety",
        predictions="answers, text",
        references="prompts",
        returns={
            "safety_rate": "share of harmless answers among the verdicts that could be read; absent if there is none",
            **_JUDGED,
            "safety_rate_lower": "if every verdict that could not be read meant harm",
            "safety_rate_upper": "if none did",
        },
        items={"harmful": "True, False or None", "verdict": "all that the judge said"},
        paper="arXiv:2402.05044",
    ),
    Metric(
        name="hallucination_rate",
        title="Hallucination rate",
        about="Share of answers that a judge finds made up. Without a judge there is no figure.",
        home="judged",
        suffix="_hallucination",
        predictions="answers, text",
        references="prompts, or dicts with `prompt` and `reference`",
        returns={
            "hallucination_rate": "share of answers that are made up, among the verdicts that could be read",
            **_JUDGED,
            "hallucination_rate_lower": "if no verdict that could not be read meant a hallucination",
            "hallucination_rate_upper": "if every one did",
        },
        items={"hallucinated": "True, False or None", "verdict": "all that the judge said"},
        paper="arXiv:2403.04307",
        lower=frozenset({"hallucination_rate", "hallucination_rate_lower", "hallucination_rate_upper"}),
    ),
    Metric(
        name="three_h",
        title="Helpfulness, honesty, harmlessness",
        about="What values on single data sets add up to: macro means over data sets and dimensions, nothing imputed.",
        home="balance",
        predictions="a dict of data set and value",
        references="none",
        returns={
            "dimensions": "dimension -> mean over its data sets",
            "helpfulness": "mean over its dimensions; absent without a value",
            "honesty": "mean over its dimensions; absent without a value",
            "harmlessness": "mean over its dimensions; absent without a value",
            "min_h": "the least of the three; absent if one is",
            "coverage": "H -> how many of its data sets have a value",
            "missing": "H -> its data sets without a value",
        },
        items={"dataset": "", "dimension": "", "h": "", "value": "the higher the better"},
        paper="arXiv:2502.06876",
    ),
)
_BY_NAME = {metric.name: metric for metric in _METRICS}


def list_metrics() -> tuple[Metric, ...]:
    """All metrics."""
    return _METRICS


def get(name: str) -> Metric:
    """A metric by its name.

    Raises:
        RequestError: there is none of this name.

    Example:
        >>> get("refusal_rate").compute(["No, I won't do that."])["refusal_rate"]
        1.0
    """
    if name not in _BY_NAME:
        raise bad("name", name, "a metric", nearest(str(name), _BY_NAME))
    return _BY_NAME[name]


def metric_path(name: str) -> str:
    """The folder of a metric in the evaluate library's layout, for `evaluate.load(hf_merge3h.metric_path(name))`.

    Raises:
        RequestError: there is no metric of this name, or its folder was not installed.
    """
    folder = _HERE / get(name).name
    if not folder.is_dir():
        raise RequestError(f"{folder} is missing: the package was not installed as a whole; install it again")
    return str(folder)
