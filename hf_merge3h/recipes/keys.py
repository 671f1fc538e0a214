"""The words of a recipe: which keys stand where, which of mergekit's are refused, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import RequestError, near, nearest
from .marks import Marked, Path
from .mergekit import MERGEKIT_NAMES, Rules, check_value
from .parameters import Settings, read_setting, scalars_of

TOP = (
    "merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype", "tokenizer_source",
    "tokenizer", "chat_template", "adapters", "roles", "seed", "out",
)  # fmt: skip
MODEL = ("model", "adapters", "parameters")
ADAPTER = ("adapter", "parameters")
SOURCE = ("model", "adapters", "layer_range", "parameters")
SLICE = ("sources", "parameters")
MODULE = ("models", "slices", "parameters")
TOKENIZER = ("source", "tokens", "pad_to_multiple_of")

#: What mergekit reads and this library does not.
REFUSED: Mapping[str, str] = {
    "residual_weight": "mergekit reads it and does nothing with it; remove it",
    "override_architecture": "architectures are told from tensor names here; remove it",
    "base_model": "mergekit reads it there and does nothing with it; base_model stands at the top",
}
DTYPES = ("float32", "bfloat16", "float16", "float64")


class Page:
    """A recipe being read: its text, and what was found wrong with it or worth a warning."""

    def __init__(self, text: Marked) -> None:
        self.text = text
        self.rules: Rules | None = None
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._settings: list[tuple[Rules, str, Any, Path]] = []

    def bad(self, path: Path, value: object, expected: str, remedy: str = "") -> None:
        """Note a wrong value."""
        self.problems.append(self.text.bad(path, value, expected, remedy))

    def refused(self, path: Path, error: RequestError) -> None:
        """Note an error that was found elsewhere."""
        self.problems.append(self.text.told(path, error))

    def say(self, path: Path, problem: str) -> None:
        """Note a problem."""
        self.problems.append(self.text.say(path, problem))

    def warn(self, path: Path, warning: str) -> None:
        """Note something that is not wrong."""
        found = self.text.say(path, warning)
        if found not in self.warnings:
            self.warnings.append(found)

    def mapping(self, value: Any, path: Path, known: tuple[str, ...], what: str) -> dict[str, Any] | None:
        """A mapping with these keys only, or None."""
        if not isinstance(value, dict):
            self.bad(path, value, f"{what}: a mapping with {', '.join(known)}")
            return None
        for key in value:
            if key in known:
                continue
            if key in REFUSED:
                self.say((*path, key), f"is not supported: {REFUSED[key]}")
            else:
                self.say((*path, key), self._misplaced(key, known) or f"is unknown; {nearest(key, known)}")
        return value

    def _misplaced(self, key: str, known: tuple[str, ...]) -> str:
        """What to do about a key beside `parameters` that is, or is meant to be, one of them; else nothing."""
        if "parameters" not in known:
            return ""
        names = MERGEKIT_NAMES | (self.rules.accepted if self.rules else frozenset())
        meant = key if key in names else next(iter(near(key, [*known, *sorted(names)])), "")
        if meant not in names:
            return ""
        spelt = "is a parameter" if meant == key else f"is unknown; {meant} is a parameter, if that is meant"
        return f"{spelt}: put it under `parameters`"

    def sequence(self, value: Any, path: Path, what: str) -> list[Any]:
        """A list with at least one element."""
        if isinstance(value, list) and value:
            return value
        self.bad(path, value, f"a list of {what}")
        return []

    def parameters(self, value: Any, path: Path, rules: Rules, of_one_model: bool = False) -> Settings:
        """The settings of one level."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.bad(path, value, "a mapping of parameters")
            return {}
        settings = {}
        for name, given in value.items():
            here = (*path, name)
            if not self._counts(name, here, rules, of_one_model):
                continue
            setting = read_setting(given, here, self.text, self.problems)
            if setting is not None:
                settings[name] = setting
                self._settings.append((rules, name, setting, here))
        return settings

    def refuse_values(self) -> None:
        """Note the values that no method takes, for a recipe that is refused anyway.

        Of others the tensors' jobs tell, which know what is used: a filter may keep a value from every tensor.
        """
        for rules, name, setting, path in self._settings:
            for value, place in scalars_of(setting, path):
                try:
                    check_value(rules, name, value)
                except RequestError as error:
                    self.refused(place, error)

    def _counts(self, name: str, path: Path, rules: Rules, of_one_model: bool) -> bool:
        """Whether a parameter means something to the method; else a problem, a warning, or neither is noted."""
        if name in rules.accepted:
            single = {"weight", *(each for ours in rules.per_model for each in rules.spellings[ours])}
            if of_one_model and name not in single:
                self.warn(
                    path, f"has no effect under one model (in mergekit neither): {name} belongs to the slice or recipe"
                )
                return False
            return True
        if name in rules.no_effect:
            return False
        if rules.known and name in MERGEKIT_NAMES:
            self.warn(path, f"has no effect on {rules.name}, in mergekit neither")
            return False
        hint = nearest(name, sorted(rules.accepted)) if rules.accepted else "it takes none"
        self.say(path, f"is unknown to {rules.name}; {hint}")
        return False
