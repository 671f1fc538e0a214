"""Saying in a LoraConfig exactly which modules are meant, at which ranks."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

#: From this length on PEFT rewrites a list of targets; a list of full names is then no longer what is saved.
_MANY = 20


def target_modules(targets: Collection[str], modules: Iterable[str]) -> list[str] | str:
    """What `LoraConfig.target_modules` must say to mean these modules and no others.

    PEFT (and the servers that read its configs) match a list by dotted endings, so last names are used where they are
    enough (["q_proj", "v_proj"]), else full names, else one anchored regular expression.

    Args:
        targets: full names of the modules that are meant.
        modules: full names of all modules.
    """
    modules = [name for name in modules if name]
    wanted = set(targets)
    last = {name.rpartition(".")[2] for name in targets}
    if _matched(last, modules) == wanted:
        return sorted(last)
    if len(wanted) < _MANY and _matched(wanted, modules) == wanted:
        return sorted(wanted)
    return alternatives(sorted(wanted))


def rank_pattern(ranks: Mapping[str, int], default: int) -> dict[str, int]:
    """`LoraConfig.rank_pattern` for the modules whose rank is not the default: one pattern for each rank.

    PEFT looks a module up by `re.match(rf"(.*\\.)?({key})$", name)`; `^` keeps the optional prefix empty, so that
    'layers.1' is neither 'decoder.layers.1' nor 'layers.11'.
    """
    groups: dict[int, list[str]] = {}
    for name, rank in sorted(ranks.items()):
        if rank != default:
            groups.setdefault(rank, []).append(name)
    return {f"^{alternatives(names)}": rank for rank, names in sorted(groups.items())}


def alternatives(names: Iterable[str]) -> str:
    """A regular expression that matches these names and nothing else."""
    return f"(?:{'|'.join(map(re.escape, names))})"


def _matched(targets: set[str], modules: Iterable[str]) -> set[str]:
    return {name for name in modules if any(ending in targets for ending in _endings(name))}


def _endings(name: str) -> Iterable[str]:
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield name
