"""From `lab.yaml` to a comparison, checked wholly: all that is wrong is told at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ...errors import Problems, SourceError, bad, nearest, show
from ...evaluation.scoring import can_score
from ...evaluation.store import folder_name
from ...evaluation.suite import H, read_suite
from ...registry import get_method
from .bases import CONFIGS
from .config import CONTROLS, KINDS, PARADIGMS, STRATEGIES, WORDS, Lab, Training, Tuning, Variant
from .tuning import parameter_of

_KEYS = ("name", "base", "data", "experts", "training", "paradigms", "order", "mixtures", "methods", "ablation",
         "evaluation", "tuning", "seed", "keep")  # fmt: skip


def read_lab(path: str | os.PathLike[str]) -> Lab:
    """Read a comparison's file.

    Raises:
        SourceError: it is not there, or no YAML.
        RequestError: something in it is wrong; all that is wrong at once.
    """
    file = Path(path)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SourceError(f"{file}: cannot be read as YAML: {show(str(error))}") from None
    if not isinstance(content, Mapping):
        raise bad(f"lab {file}", content, "a mapping", f"its keys are {', '.join(_KEYS)}")
    problems = Problems(f"lab {file} cannot be run")
    lab = _Reader(file.resolve().parent, content, problems).lab()
    problems.raise_any()
    assert lab is not None
    return lab


class _Reader:
    def __init__(self, folder: Path, content: Mapping[str, Any], problems: Problems) -> None:
        self.folder, self.content, self.problems = folder, content, problems

    def lab(self) -> Lab | None:
        given, problems = self.content, self.problems
        for key in given:
            if key not in _KEYS:
                problems.add(f"{show(str(key))}: no such key; {nearest(str(key), _KEYS)}")
        suites, datasets, limit, precision = self._evaluation()
        found = Lab(
            folder=self.folder,
            name=str(given.get("name", self.folder.name)),
            base=self._base(),
            suites=suites,
            methods=self._variants("methods"),
            data=self._data(),
            experts=self._experts(),
            training=self._training(),
            paradigms=self._paradigms(),
            order=self._order(),
            mixtures=self._mixtures(),
            ablation=self._variants("ablation"),
            tuning=self._tuning(),
            datasets=datasets,
            limit=limit,
            precision=precision,
            seed=self._number("seed", given.get("seed", 0), least=0) or 0,
            keep=tuple(self._list("keep", given.get("keep", ()))),
        )
        self._cross_check(found)
        return found

    def _cross_check(self, lab: Lab) -> None:
        add = self.problems.add
        if bool(lab.data) == bool(lab.experts):
            add("data, experts: expected one of them: data to train experts on, or experts that exist")
        if not lab.methods:
            add("methods: expected at least one, as `ties: {}` or `label: {method: ties, density: 0.3}`")
        if lab.data and not lab.training:
            add(f"training: missing, expected {' or '.join(KINDS)} with settings")
        for paradigm, kinds in lab.paradigms.items():
            for kind in kinds:
                if lab.training and kind not in lab.training:
                    add(f"paradigms.{paradigm}: {kind} is not under `training`")
        if lab.experts and (lab.mixtures or lab.training):
            add("experts: given, so there is nothing to train or to mix; leave out training and mixtures, or give data")
        if lab.tuning and lab.tuning.low >= lab.tuning.high:
            add(f"tuning.low={lab.tuning.low}: expected less than tuning.high, {lab.tuning.high}")
        for label in lab.tuning.methods if lab.tuning else ():
            variant = lab.methods.get(label)
            if variant is None:
                add(f"tuning.methods: {label!r} is not under `methods`; {nearest(label, lab.methods)}")
            elif parameter_of(variant) is None:
                add(f"tuning.methods: {label!r} has no scale: {variant.method} takes none; leave it out")
        if (lab.tuning or lab.ablation) and "development" not in lab.suites:
            add("evaluation.development: missing; tuning and ablation never look at the test split")
        for label in lab.keep:
            if label not in lab.methods:
                add(f"keep: {label!r} is not under `methods`; {nearest(label, lab.methods)}")

    def _base(self) -> str:
        base = self.content.get("base")
        if not isinstance(base, str) or not base.strip():
            self.problems.add(f"base={show(base)}: expected a Hub id, a folder, or a name such as demo")
            return ""
        inside = self.folder / base
        return str(inside) if inside.is_dir() else base

    def _file(self, key: str, value: Any) -> Path | None:
        path = self.folder / str(value)
        if not isinstance(value, str) or not path.is_file():
            self.problems.add(f"{key}={show(value)}: no such file in {self.folder}")
            return None
        return path

    def _roles(self, key: str) -> Mapping[str, Any]:
        given = self.content.get(key) or {}
        if not isinstance(given, Mapping):
            self.problems.add(f"{key}={show(given)}: expected a mapping of {', '.join(H)}")
            return {}
        if given and set(given) != set(H):
            self.problems.add(f"{key}: has {', '.join(map(str, given))}; expected {', '.join(H)}")
        return {role: given[role] for role in H if role in given}

    def _data(self) -> dict[str, Path]:
        found = {role: self._file(f"data.{role}", value) for role, value in self._roles("data").items()}
        return {role: path for role, path in found.items() if path is not None}

    def _experts(self) -> dict[str, str]:
        found = {}
        for role, value in self._roles("experts").items():
            if not isinstance(value, str):
                self.problems.add(f"experts.{role}={show(value)}: expected a Hub id or a folder")
                continue
            inside = self.folder / value
            found[role] = str(inside) if inside.is_dir() else value
            if inside.is_dir() and not any((inside / each).is_file() for each in CONFIGS):
                self.problems.add(f"experts.{role}={show(value)}: expected {' or '.join(CONFIGS)} in this folder")
        return found

    def _training(self) -> dict[str, Training]:
        found = {}
        for kind, given in self._mapping("training").items():
            if not self._known("training", kind, KINDS):
                continue
            key, plain = f"training.{kind}", dict(given) if isinstance(given, Mapping) else given
            roles = plain.pop("roles", None) or {} if isinstance(plain, dict) else {}
            found[kind] = self._one(key, Training, plain)
            if not isinstance(roles, Mapping):
                self.problems.add(f"{key}.roles={show(roles)}: expected a mapping of {', '.join(H)}")
                continue
            for role, changes in roles.items():
                if self._known(f"{key}.roles", role, H):
                    self._one(f"{key}.roles.{role}", Training, changes)  # only to check them
            found[kind] = replace(found[kind], roles=dict(roles))
        return found

    def _tuning(self) -> Tuning | None:
        given = self.content.get("tuning")
        if not given:
            return None
        plain = dict(given) if isinstance(given, Mapping) else given
        listed = plain.pop("methods", None) if isinstance(plain, dict) else None
        methods = () if listed is None else tuple(self._list("tuning.methods", listed))
        if listed == []:
            self.problems.add("tuning.methods=[]: expected labels; leave it out to tune all, or leave out `tuning`")
        return replace(self._one("tuning", Tuning, plain), methods=methods)

    def _paradigms(self) -> dict[str, tuple[str, ...]]:
        given = self._mapping("paradigms") or {"static": list(self._mapping("training"))}
        found = {}
        for paradigm, kinds in given.items():
            if self._known("paradigms", paradigm, PARADIGMS):
                listed = self._list(f"paradigms.{paradigm}", kinds)
                found[paradigm] = tuple(k for k in listed if self._known(f"paradigms.{paradigm}", k, KINDS))
        return found

    def _order(self) -> tuple[str, ...]:
        order = self._list("order", self.content.get("order", list(H)))
        if sorted(order) != sorted(H):
            self.problems.add(f"order={show(order)}: expected {', '.join(H)}, in any order")
        return tuple(order)

    def _mixtures(self) -> dict[str, dict[str, Any]]:
        found = {}
        for strategy, options in self._mapping("mixtures").items():
            if self._known("mixtures", strategy, STRATEGIES):
                if not isinstance(options or {}, Mapping):
                    self.problems.add(f"mixtures.{strategy}={show(options)}: expected options of mix_data")
                    continue
                found[strategy] = dict(options or {})
        return found

    def _variants(self, key: str) -> dict[str, Variant]:
        found = {}
        for label, options in self._mapping(key).items():
            options = {} if options is None else options
            try:
                folder_name(str(label).replace(" ", "_"))
                if not isinstance(options, Mapping):
                    raise bad(f"{key}.{label}", options, "a mapping of parameters")
                parameters = {name: value for name, value in options.items() if name != "method"}
                method = str(options.get("method", label))
                if method in CONTROLS and key != "ablation":
                    raise bad("method", method, "a merging method", "the controls belong under `ablation`")
                _check_method(method, parameters)
                found[str(label)] = Variant(method, parameters)
            except ValueError as problem:
                self.problems.add(f"{key}.{label}: {problem}")
        return found

    def _evaluation(self) -> tuple[dict[str, Path], tuple[str, ...], int | None, str]:
        given = self._mapping("evaluation")
        for key in given:
            self._known("evaluation", key, ("test", "development", "datasets", "limit", "precision"))
        datasets = tuple(self._list("evaluation.datasets", given.get("datasets", ())))
        suites = {}
        for split in ("test", "development"):
            if split not in given:
                continue
            path = self._file(f"evaluation.{split}", given[split])
            if path is not None:
                searched = split == "development" and bool(self.content.get("tuning"))
                self._attempt(lambda path=path, searched=searched: self._asked(path, datasets, searched))  # type: ignore[misc]
                suites[split] = path
        if "test" not in given:
            self.problems.add("evaluation.test: missing, expected the file of a suite")
        limit = given.get("limit", 100)
        precision = given.get("precision", "float32")
        self._known("evaluation.precision", precision, ("float32", "bfloat16"))
        return suites, datasets, None if limit is None else self._number("evaluation.limit", limit), precision

    def _asked(self, path: Path, datasets: Sequence[str], searched: bool) -> None:
        tasks = read_suite(path).tasks
        known = [name for name in datasets or tasks if self._known("evaluation.datasets", name, list(tasks))]
        if searched and known and not any(tasks[name].averaged for name in known):
            self.problems.add(
                f"tuning: nothing to search by: of {', '.join(known)} in {path} none is part of its H's mean "
                "(averaged: false); ask one that is, or leave out tuning"
            )
        for name in known:
            if not can_score(tasks[name]):  # an evaluation says so in its report and goes on; nobody reads those here
                self.problems.add(
                    f"{path}: datasets.{name}.key={tasks[name].key!r}: expected a key of {tasks[name].metric} "
                    "that is a mean over items, for models are compared item by item"
                )

    def _attempt(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except ValueError as problem:
            self.problems.add(str(problem))

    def _mapping(self, key: str) -> Mapping[str, Any]:
        given = self.content.get(key) or {}
        if isinstance(given, Mapping):
            return given
        if isinstance(given, Sequence) and not isinstance(given, str):  # `[ties, linear]` is short for no parameters
            return {str(each): {} for each in given}
        self.problems.add(f"{key}={show(given)}: expected a mapping")
        return {}

    def _list(self, key: str, value: Any) -> list[str]:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [str(each) for each in value]
        self.problems.add(f"{key}={show(value)}: expected a list")
        return []

    def _known(self, key: str, value: Any, known: Sequence[str]) -> bool:
        if value in known:
            return True
        self.problems.add(f"{key}: {show(value)} is unknown; {nearest(str(value), known)}")
        return False

    def _number(self, key: str, value: Any, least: int = 1) -> int | None:
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        self.problems.add(f"{key}={show(value)}: expected a whole number of at least {least}")
        return None

    def _one(self, key: str, kind: type[Any], given: Any) -> Any:
        """A dataclass of numbers and words, each held to the type of its default."""
        if not isinstance(given, Mapping):
            self.problems.add(f"{key}={show(given)}: expected a mapping")
            return kind()
        known = {
            each.name: each.default for each in fields(kind) if each.default is not MISSING
        }  # `roles` and `methods` have none
        taken: dict[str, Any] = {}
        for name, value in given.items():
            if not self._known(key, name, list(known)):
                continue
            if name in WORDS:
                self._known(f"{key}.{name}", value, WORDS[name])
            elif isinstance(known[name], int):
                value = self._number(f"{key}.{name}", value)
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                self.problems.add(f"{key}.{name}={show(value)}: expected a number above 0")
                continue
            if value is not None:
                taken[name] = value
        return kind(**taken)


def _check_method(method: str, parameters: Mapping[str, Any]) -> None:
    known: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if method in CONTROLS:
        from .controls import registered  # it needs torch, which a file without controls can be read without

        known = registered()
    with known:
        record = get_method(method)
        record.check_experts(len(H))
        record.bind(parameters, len(H))
