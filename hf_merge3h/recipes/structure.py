"""`models`, `slices`, `modules` and `adapters` of a recipe, read into a `Body`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..errors import RequestError
from .body import Body, Module, Slice, Source
from .keys import ADAPTER, MODEL, MODULE, SLICE, SOURCE, Page
from .marks import Path
from .mergekit import Rules
from .references import Models

_FORMS = ("models", "slices", "modules", "adapters")
_MOST_LAYERS = 100_000


def read_body(page: Page, data: Mapping[str, Any], rules: Rules, models: Models) -> Body | None:
    """What is merged with what; None where it cannot be told (the page has the problems)."""
    return _Reader(page, data, rules, models).body()


class _Reader:
    def __init__(self, page: Page, data: Mapping[str, Any], rules: Rules, models: Models) -> None:
        self.page, self.data, self.rules, self.models = page, data, rules, models
        self.base: int | None = None

    def body(self) -> Body | None:
        page, data = self.page, self.data
        forms = [form for form in _FORMS if data.get(form) is not None]
        if len(forms) != 1:
            empty = [form for form in _FORMS if form in data] if not forms else []
            for each in empty:
                page.say((each,), "is empty")
            if not empty:
                has = " and ".join(forms) or "none"
                page.say((), f"a recipe has one of {', '.join(_FORMS)}, and this one has {has}")
            return None
        form = forms[0]
        given: dict[str, Any] = {form: data[form]}
        if form == "modules":
            found = data["modules"]
            if not isinstance(found, dict) or not found:
                page.bad(("modules",), found, "a mapping of names to modules")
                return None
            read = {name: self._module(name, value, ("modules", name)) for name, value in found.items()}
        else:
            read = {"default": self._module("default", given, ())}
        if data.get("base_model") is not None:
            self.base = self.models.add(data["base_model"], ("base_model",))
        elif self.rules.base in ("origin", "first"):
            page.say((), f"merge_method {self.rules.name} needs a base_model")
        parameters = page.parameters(data.get("parameters"), ("parameters",), self.rules)
        modules = [module for module in read.values() if module is not None]
        if page.problems or not modules or len(modules) < len(read):
            return None
        modules = [replace(each, slices=tuple(self._with_base(part) for part in each.slices)) for each in modules]
        self._both_spellings()
        return Body(self.rules, tuple(modules), self.base, parameters, (), page.text)

    def _module(self, name: str, value: Any, path: Path) -> Module | None:
        page = self.page
        if path:
            value = page.mapping(value, path, MODULE, "a module")
            if value is None:
                return None
            forms = [form for form in ("models", "slices") if value.get(form) is not None]
            if len(forms) != 1:
                page.say(path, "has one of models and slices")
                return None
        slices: list[Slice]
        if value.get("slices") is not None:
            here = (*path, "slices")
            parts = page.sequence(value["slices"], here, "slices")
            slices = [found for n, part in enumerate(parts) if (found := self._slice(part, (*here, n)))]
        elif value.get("adapters") is not None:
            slices = [Slice(tuple(self._adapters(value["adapters"])), ("adapters",))]
        else:
            here = (*path, "models")
            parts = page.sequence(value["models"], here, "models")
            sources = [self._source(part, (*here, n), MODEL) for n, part in enumerate(parts)]
            slices = [Slice(tuple(each for each in sources if each), here)]
        own = page.parameters(value.get("parameters"), (*path, "parameters"), self.rules) if path else {}
        return Module(name, tuple(slices), path, own) if slices and all(each.sources for each in slices) else None

    def _slice(self, value: Any, path: Path) -> Slice | None:
        given = self.page.mapping(value, path, SLICE, "a slice")
        if given is None:
            return None
        here = (*path, "sources")
        parts = self.page.sequence(given.get("sources"), here, "sources")
        sources = [self._source(part, (*here, n), SOURCE) for n, part in enumerate(parts)]
        found = tuple(each for each in sources if each)
        lengths = {each.layers[1] - each.layers[0] for each in found if each.layers}
        if len(lengths) > 1:
            ranges = ", ".join(str(list(each.layers)) for each in found if each.layers)
            self.page.say(
                here, f"have ranges of different lengths: {ranges}; the sources of a slice are merged layer by layer"
            )
        return Slice(found, path, self.page.parameters(given.get("parameters"), (*path, "parameters"), self.rules))

    def _source(self, value: Any, path: Path, known: tuple[str, ...]) -> Source | None:
        if isinstance(value, str) and known is MODEL:
            value = {"model": value}
        given = self.page.mapping(value, path, known, "a model")
        if given is None:
            return None
        if "model" not in given:
            self.page.say(path, "names no model")
            return None
        adapters = self.models.adapters(given.get("adapters"), (*path, "adapters"))
        model = self.models.add(given["model"], (*path, "model"), adapters)
        layers = self._range(given, path) if known is SOURCE else None
        own = self.page.parameters(given.get("parameters"), (*path, "parameters"), self.rules, of_one_model=True)
        if model is None or (known is SOURCE and layers is None):
            return None
        return Source(model, path, layers, own)

    def _range(self, source: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
        if "layer_range" not in source:
            self.page.say(path, "has no layer_range: [first, last + 1], the layers of the model that go in")
            return None
        path, value = (*path, "layer_range"), source["layer_range"]
        whole = isinstance(value, list) and len(value) == 2
        if whole:
            value = [int(each) if isinstance(each, float) and each.is_integer() else each for each in value]
            whole = all(isinstance(each, int) and not isinstance(each, bool) for each in value)
        if not whole or not 0 <= value[0] < value[1] <= _MOST_LAYERS:
            self.page.bad(path, value, "[first, last + 1], whole numbers of which the second is greater")
            return None
        return value[0], value[1]

    def _adapters(self, value: Any) -> list[Source]:
        """Ours: PEFT adapters on the base, each an expert; a list, or a mapping of roles."""
        page, sources = self.page, []
        base = self.data.get("base_model")
        if base is None:
            page.say(("adapters",), "need a base_model that they are applied to")
            return []
        keyed = (
            list(value.items())
            if isinstance(value, dict)
            else list(enumerate(page.sequence(value, ("adapters",), "adapters")))
        )
        for key, each in keyed:
            path: Path = ("adapters", key)
            given = {"adapter": each} if isinstance(each, str) else page.mapping(each, path, ADAPTER, "an adapter")
            if given is None:
                continue
            if "adapter" not in given:
                page.say(path, "names no adapter")
                continue
            names = self.models.adapters(given["adapter"], path if isinstance(each, str) else (*path, "adapter"))
            model = self.models.add(base, ("base_model",), names) if names else None
            own = page.parameters(given.get("parameters"), (*path, "parameters"), self.rules, of_one_model=True)
            if model is not None:
                if isinstance(key, str):
                    self.models.name(model, key)
                sources.append(Source(model, path, None, own))
        return sources

    def _with_base(self, part: Slice) -> Slice:
        """The slice with the base among its sources, if the method looks at it, and checked against the method."""
        page, rules, base = self.page, self.rules, self.base
        indices = [source.model for source in part.sources]
        for source in part.sources:
            if indices.count(source.model) > 1:
                page.say(source.path, "is a model that is listed twice; list it once, with its weight")
        sources = part.sources
        counts = rules.base != "model" or (rules.base_added and part.path != ("adapters",))
        if base is not None and base not in indices and counts:
            if part.length is None:
                sources = (*sources, Source(base, part.path, implied=True))
            elif rules.base != "model":
                page.say(
                    part.path,
                    "lacks the base_model among its sources: list it with the layers that the others are measured from",
                )
        self._check_number(part, len(sources), sum(source.model != base for source in sources))
        return replace(part, sources=sources)

    def _check_number(self, part: Slice, every: int, others: int) -> None:
        rules = self.rules
        if rules.method is None:
            if every != 1:
                self.page.say(part.path, f"has {every} models: passthrough takes one at a time")
            return
        count = every if rules.base in ("first", "model") else others
        if count == 0:
            return  # the base alone: it comes out as it is
        try:
            rules.method.check_experts(count)
        except RequestError as error:
            hint = "; the base_model counts as one of them" if count > others else ""
            self.page.say(part.path, f"cannot be merged: {error}{hint}")

    def _both_spellings(self) -> None:
        """Refuse two names of one parameter in one recipe."""
        used = dict(_parameters_in(self.data, ()))
        for spellings in self.rules.spellings.values():
            if len(spellings) > 1 and used.keys() >= set(spellings):
                place = self.page.text.where(used[spellings[1]])
                self.page.say(
                    used[spellings[0]], f"and {spellings[1]} ({place}) are two names of one parameter; keep one"
                )


def _parameters_in(data: Any, path: Path) -> Iterator[tuple[str, Path]]:
    """All names of parameters, each with where it stands."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        here = (*path, key)
        if key == "parameters" and isinstance(value, dict):
            yield from ((name, (*here, name)) for name in value)
        else:
            yield from _parameters_in(value, here)
