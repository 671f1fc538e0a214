"""The models that a recipe names: `model@revision+adapter`, each once."""

from __future__ import annotations

from typing import Any

from ..errors import nearest
from .keys import Page
from .marks import Path
from .types import ModelReference

#: Adapters by name, each with where it stands.
Placed = tuple[tuple[str, Path], ...]

_MOST = 4096  # characters of a path


class Models:
    """Collects references in the order in which a recipe names them."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._found: dict[tuple[str, tuple[str, ...]], str] = {}
        self._paths: dict[tuple[str, tuple[str, ...]], tuple[Path, tuple[Path, ...]]] = {}
        self._named: dict[int, str] = {}

    def add(self, value: Any, path: Path, adapters: Placed = ()) -> int | None:
        """The index of a model, new or known; None where it is no reference."""
        key = self._parse(value, path)
        if key is None:
            return None
        source, own = key
        full = (source, tuple(name for name, _ in own + adapters))
        given = [value] if isinstance(value, str) else [source, *(name for name, _ in own)]
        self._found.setdefault(full, "+".join([*given, *(name for name, _ in adapters)]))
        self._paths.setdefault(full, (path, tuple(each for _, each in own + adapters)))
        return list(self._found).index(full)

    def __contains__(self, given: str) -> bool:
        """Whether the recipe names a model so."""
        return given in self._found.values()

    def name(self, index: int, role: str) -> None:
        """Give a model the role under which the recipe lists it."""
        self._named[index] = role

    def adapters(self, value: Any, path: Path) -> Placed:
        """Our `adapters:` beside a model."""
        if value is None:
            return ()
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(_is_name(each) for each in names):
            self._page.bad(path, value, "a PEFT adapter (folder or Hub id), or a list of them")
            return ()
        return tuple((name, path if isinstance(value, str) else (*path, n)) for n, name in enumerate(names))

    def _parse(self, value: Any, path: Path) -> tuple[str, Placed] | None:
        if isinstance(value, dict):
            return self._parse_mapping(value, path)
        if not _is_name(value):
            self._page.bad(path, value, "a folder or a Hub id, as model, model@revision or model+adapter")
            return None
        source, *adapters = value.split("+")
        if not source.strip() or not all(each.strip() for each in adapters):
            self._page.bad(path, value, "model or model+adapter, with nothing empty around the +")
            return None
        return source, tuple((name, path) for name in adapters)

    def _parse_mapping(self, value: dict[str, Any], path: Path) -> tuple[str, Placed] | None:
        """mergekit's long form: {model: {path, revision}, lora: {path, revision}}."""
        self._page.mapping(value, path, ("model", "lora"), "a model")
        parts: list[str] = []
        for name in ("model", "lora"):
            part = value.get(name)
            if part is None and name == "lora":
                continue
            if isinstance(part, dict):
                self._page.mapping(part, (*path, name), ("path", "revision"), "a path and a revision")
                revision = part.get("revision")
                part = part.get("path")
                if revision is not None and not _is_name(revision):
                    self._page.bad((*path, name, "revision"), revision, "a branch, tag or commit; quote one of digits")
                elif revision is not None and _is_name(part):
                    part = f"{part}@{revision}"
            if not isinstance(part, str) or not _is_name(part):
                self._page.bad((*path, name), part, "a folder or a Hub id")
                return None
            parts.append(part)
        return parts[0], tuple((name, (*path, "lora")) for name in parts[1:])

    def roles(self, value: Any, base: int | None) -> dict[int, str]:
        """Roles by model: as the recipe's `roles` say, else expert_1, expert_2, ... by position."""
        experts = [index for index in range(len(self._found)) if index != base]
        found = {index: f"expert_{number}" for number, index in enumerate(experts, start=1)}
        if base is not None:
            found[base] = "base"
        named: dict[int, Any] = dict(self._named)
        if isinstance(value, list) and len(value) == len(experts):
            named |= zip(experts, value, strict=True)
        elif isinstance(value, dict):
            given = {text: index for index, text in enumerate(self._found.values())}
            for role, model in value.items():
                if not isinstance(model, str) or model not in given:
                    self._page.bad(("roles", role), model, "one of the recipe's models", nearest(str(model), given))
                else:
                    named[given[model]] = role
        elif value is not None:
            self._page.bad(
                ("roles",), value, f"{len(experts)} words, one for each expert, or a mapping of role to model"
            )
        for index, role in named.items():
            if not _is_name(role) or len(role) > 100 or role in ("base", "merged"):
                self._page.bad(("roles",), role, "a word, for example helpfulness, honesty, harmlessness")
            else:
                found[index] = role
        if len(set(found.values())) < len(found):
            self._page.bad(("roles",), value, "different roles")
        return found

    def references(self, roles: dict[int, str]) -> tuple[ModelReference, ...]:
        """All models, in order."""
        return tuple(
            ModelReference(source, adapters, given, roles.get(index, ""), *self._paths[source, adapters])
            for index, ((source, adapters), given) in enumerate(self._found.items())
        )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= _MOST and value.isprintable()
