"""`evaluate.load("hf_merge3h/NAME")` gives the metric of the installed package, and asks nobody for it.

evaluate would first look for a folder of that name, then ask the Hub, where whoever registers the name could have our
users run code; so its module factory is wrapped for our names. A module is imported from the package itself, not from a
copy in a cache, so a cache that is fresh, shared by processes or read-only does not matter, nor whether there is a
network.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import bad
from .records import get, list_metrics, metric_path

_OWNER = "hf_merge3h/"
_MARK = "_hf_merge3h_factory"


def attach(module: ModuleType) -> None:
    """Wrap the factory in `evaluate.loading` and where other modules of evaluate hold it; once."""
    factory = getattr(module, "evaluation_module_factory", None)
    if factory is None or hasattr(factory, _MARK):
        return
    wrapped = _wrap(factory, module)
    for name in (module.__name__, "evaluate.inspect", "evaluate.evaluation_suite"):
        held = sys.modules.get(name)
        if held is not None and getattr(held, "evaluation_module_factory", None) is factory:
            vars(held)["evaluation_module_factory"] = wrapped


def _wrap(factory: Any, module: ModuleType) -> Any:
    @functools.wraps(factory)
    def ours_first(path: Any, *arguments: Any, **named: Any) -> Any:
        name = _ours(path)
        if name is None:
            return factory(path, *arguments, **named)
        if named.get("revision") is not None:
            raise bad("revision", named["revision"], "none", f"{_OWNER}{name} is always the installed copy")
        script = Path(metric_path(name)) / f"{name}.py"
        digest = hashlib.sha256(script.read_bytes()).hexdigest()
        return module.ImportableModule(f"{__package__}.{name}.{name}", digest)

    setattr(ours_first, _MARK, True)
    return ours_first


def _ours(path: Any) -> str | None:
    """The metric that is meant, or None where the path is somebody else's."""
    text = str(path)
    if text.startswith(_OWNER):
        return get(text.removeprefix(_OWNER).rstrip("/")).name
    for metric in list_metrics():
        folder = Path(__file__).parent / metric.name
        if text.rstrip("/") in (str(folder), str(folder / f"{metric.name}.py")):
            return metric.name
    return None
