"""One tensor's job: its inputs in the method's order, weights and parameters as the method takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import Problems, RequestError, bad, wrong
from .body import Body, Source
from .marks import Path
from .mergekit import as_ours
from .parameters import Levels
from .types import PASSTHROUGH, TensorJob

Input = tuple[Source, str]


class JobMaker:
    """Makes jobs; what has been bound once is not bound again."""

    def __init__(self, body: Body, problems: Problems) -> None:
        self.body, self.rules = body, body.rules.imported()
        self._problems = problems
        known = self.rules.method.parameters if self.rules.method else ()
        self._single = {each.name: replace(each, per_expert=False) for each in known}
        self._bound: dict[Any, Mapping[str, Any]] = {}

    def __call__(self, name: str, inputs: Sequence[Input], levels: Levels, t: float) -> TensorJob:
        """The job of the output tensor `name`.

        Args:
            name: in the output; filters of parameters that all models share look at it.
            inputs: sources and the tensors' names in them, base included.
            levels: the settings around the sources.
            t: how far through the layers the tensor is.

        Raises:
            RequestError: parameters, weights or the number of models do not suit the method.
        """
        base, experts = self._split(inputs)
        if not experts:
            return _copy(name, inputs[0])
        rules = self.rules
        if rules.method is None:
            if len(experts) > 1:
                raise RequestError(
                    f"merge_method=passthrough takes one model at a time, not {len(experts)}; use slices"
                )
            scale = self._number("scale", ("scale",), experts[0], levels, t)
            return _copy(name, experts[0], 1.0 if scale is None else scale)
        shared = {
            ours: value
            for ours, spellings in rules.spellings.items()
            if ours not in rules.per_model and (value := levels.find(spellings, name, t)) is not None
        }
        own = {
            ours: [_own(each, levels).find(spellings, each[1], t) for each in experts]
            for ours, spellings in rules.spellings.items()
            if ours in rules.per_model
        }
        weights = self._weights(experts, levels, t)
        return self._settle(name, base, experts, shared, own, weights)

    def where(self, error: RequestError, inputs: Sequence[Input], levels: Levels, t: float) -> tuple[Path, bool] | None:
        """Where the recipe says what an error of a job is about, and whether the very value of the error stands there.

        Where several models have a value of their own, it is the one that the error tells of, else the first.
        """
        ours = error.argument
        spellings = ("weight",) if ours in ("weight", "weights") else self.rules.spellings.get(ours)
        if spellings is None:
            return None
        found = [(value, path) for each in inputs for value, path in _traced(each, levels, spellings, t)]
        if self.rules.method is not None and ours in self.rules.spellings:
            found = [(as_ours(self.rules, ours, value), path) for value, path in found]
        exact = [(path, True) for value, path in found if value == error.value]
        return next(iter(exact + [(path, False) for _, path in found]), None)

    def _split(self, inputs: Sequence[Input]) -> tuple[Input | None, list[Input]]:
        """The origin of task vectors, and what is merged."""
        role = self.rules.base
        origin = next((each for each in inputs if each[0].model == self.body.base), None)
        others = [each for each in inputs if each is not origin]
        if role == "first":
            return None, ([origin, *others] if origin else others)
        if role == "model":
            return None, list(inputs)
        return origin, others

    def _weights(self, experts: Sequence[Input], levels: Levels, t: float) -> list[float | None]:
        if not self.rules.weighted:
            return [1.0] * len(experts)
        found = [self._number("weight", ("weight",), each, levels, t) for each in experts]
        for (source, _), weight in zip(experts, found):
            if weight is None and source.implied:
                raise RequestError(
                    f"base_model is one of the models that {self.rules.name} averages, and has no weight: list it "
                    "among `models` with its weight, or leave base_model out"
                )
        return found

    def _number(self, name: str, spellings: Sequence[str], given: Input, levels: Levels, t: float) -> float | None:
        value = _own(given, levels).find(spellings, given[1], t)
        if value is None:
            return None
        if isinstance(value, str) or not math.isfinite(value):
            raise bad(name, value, "a number")
        return float(value)

    def _settle(
        self,
        name: str,
        base: Input | None,
        experts: Sequence[Input],
        shared: Mapping[str, Any],
        own: Mapping[str, list[Any]],
        given: Sequence[float | None],
    ) -> TensorJob:
        rules, record = self.rules, self.rules.method
        assert record is not None
        parameters = {ours: as_ours(rules, ours, value) for ours, value in {**rules.defaults, **shared}.items()}
        for ours, values in own.items():
            default = rules.defaults.get(ours, _default(record, ours))
            parameters[ours] = tuple(default if value is None else as_ours(rules, ours, value) for value in values)
        missing = [ours for ours in rules.required if ours not in parameters]
        if missing:
            raise RequestError(f"merge_method={rules.name} needs `{missing[0]}` under parameters; nothing says it")
        unit = 1.0 / len(experts) if record.unit_weights else 1.0
        weights = [unit if weight is None else weight for weight in given]
        # A share of 0 keeps nothing of an expert: mergekit takes that, our methods want a share to be above 0.
        empty = [each == 0 and each is not False for each in parameters.get("density", ())]
        if any(empty) and rules.known:
            if parameters.get("normalize") and not rules.signed:
                weights = [weight / (math.fsum(weights) or 1.0) for weight in weights]
                parameters["normalize"] = False
            kept = [index for index, gone in enumerate(empty) if not gone]
            experts, weights = [experts[index] for index in kept], [weights[index] for index in kept]
            for ours, values in parameters.items():
                if isinstance(values, tuple):
                    parameters[ours] = tuple(values[index] for index in kept)
        if not any(weights):
            return self._nothing(name, base, experts, parameters)
        if "normalize" in parameters and not rules.signed and rules.base == "origin" and abs(math.fsum(weights)) < 1e-8:
            parameters["normalize"] = False  # mergekit then divides by 1
        if rules.name == "nuslerp" and (abs(math.fsum(weights)) < 1e-6 or _cancel(weights)):
            weights = [1.0] * len(weights)  # mergekit's t is then a half
        bound = self._bind(parameters, tuple(weights))
        return TensorJob(
            name, record.name, tuple(map(_pair, experts)), base and _pair(base), bound["weights"], bound["parameters"]
        )

    def _nothing(
        self, name: str, base: Input | None, experts: Sequence[Input], parameters: Mapping[str, Any]
    ) -> TensorJob:
        """All weights are zero: the base stands; a sum of nothing, where there is no base."""
        if base is not None:
            return _copy(name, base)
        if self.rules.name == "nuslerp":
            return self._settle(name, base, experts, {}, {}, [1.0] * len(experts))
        if parameters.get("normalize", True):
            raise wrong("weight", 0.0, "that of every model is 0; expected one that is not")
        return _copy(name, experts[0], 0.0)

    def _bind(self, parameters: Mapping[str, Any], weights: tuple[float, ...]) -> Mapping[str, Any]:
        key = (tuple(parameters.items()), weights)
        if key not in self._bound:
            record = self.rules.method
            assert record is not None
            for name, value in parameters.items():  # one by one: a list is something else in a recipe
                for each in value if isinstance(value, tuple) else (value,):
                    self._single[name].check(each)
            record.check_experts(len(weights))
            bound = record.bind({name: _one(value) for name, value in parameters.items()}, len(weights))
            values = record.bind_weights(weights, len(weights))
            if not (self.rules.known and self.rules.signed):  # entry by entry mergekit divides only by what is not 0
                record.check_request(bound, values)
            self._bound[key] = {"parameters": bound, "weights": values}
        return self._bound[key]


def _cancel(weights: Sequence[float]) -> bool:
    from ..methods.common import cancels  # brings torch

    return cancels(weights)


def _one(value: Any) -> Any:
    """One number for all experts, where all have the same."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def _default(record: Any, name: str) -> Any:
    return next(each.default for each in record.parameters if each.name == name)


def _own(given: Input, levels: Levels) -> Levels:
    return Levels(((given[0].parameters, given[0].path), *levels.levels))


def _traced(given: Input, levels: Levels, spellings: Sequence[str], t: float) -> list[tuple[Any, Path]]:
    found = _own(given, levels).trace(spellings, given[1], t)
    return [] if found is None else [found]


def _pair(given: Input) -> tuple[int, str]:
    return given[0].model, given[1]


def _copy(name: str, given: Input, scale: float = 1.0) -> TensorJob:
    return TensorJob(name, PASSTHROUGH, (_pair(given),), None, (1.0,), {"scale": scale})
