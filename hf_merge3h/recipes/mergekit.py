"""What mergekit 0.1.5 means by a recipe: its methods, defaults and names of options, next to ours.

One table, found by running mergekit and asking its registry (see tests/recipes/make_expectations.py); none of its
code is here. A method that mergekit does not have takes our own parameters with our own defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import bad, nearest
from ..registry import Method, get_method
from ..schema import Parameter
from .known import records
from .passthrough import RECORD
from .types import PASSTHROUGH

#: What the base is to a method: the origin of task vectors; that or nothing; one of two models, the first; one model
#: among the others.
BaseRole = Literal["origin", "maybe", "first", "model"]


@dataclass(frozen=True)
class Rules:
    """How a recipe's parameters become a method's.

    Attributes:
        name: as the recipe says it.
        method: our record (as `known.records` has it); None for passthrough, which the plan carries out.
        base: what the base model is to the method.
        base_added: a base that is not listed among `models` is one of them all the same.
        defaults: values by our names, where a recipe says nothing and they are not our method's own.
        renamed: the file's name of a parameter, by ours, where they differ.
        required: our names that have no default.
        no_effect: names that mergekit takes for this method and that change nothing.
        weighted: whether `weight` counts.
        known: mergekit has this method.
    """

    name: str
    method: Method | None
    base: BaseRole
    base_added: bool = True
    defaults: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    no_effect: tuple[str, ...] = ()
    weighted: bool = True
    known: bool = True

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Of the method, by our names, with a Python caller's defaults."""
        return (self.method or RECORD).parameters

    @property
    def summary(self) -> str:
        """What the method does, in one line."""
        return (self.method or RECORD).summary

    @property
    def spellings(self) -> Mapping[str, tuple[str, ...]]:
        """Our names of the parameters and how a file may spell each."""
        if self.method is None:
            return {"scale": ("scale",)}
        found = {}
        for parameter in self.method.parameters:
            name = parameter.name
            other = self.renamed.get(name) or ("lambda" if name == "scale" else None)
            found[name] = (other, name) if other else (name,)
        return found

    @property
    def per_model(self) -> frozenset[str]:
        """Our names of the parameters that each model may have its own value of."""
        if self.method is None:
            return frozenset({"scale"})
        return frozenset(parameter.name for parameter in self.method.parameters if parameter.per_expert)

    @property
    def accepted(self) -> frozenset[str]:
        """All names that may stand under `parameters` and mean something here."""
        names = {spelling for spellings in self.spellings.values() for spelling in spellings}
        return frozenset(names | ({"weight"} if self.weighted else set()))

    def imported(self) -> Rules:
        """The same with the registry's record, which computes, in place of what is known without it."""
        return self if self.method is None else dataclasses.replace(self, method=get_method(self.method.name))

    @property
    def signed(self) -> bool:
        """Whether signs are elected, entry by entry."""
        return self.method is not None and any(each.name == "election" for each in self.method.parameters)


#: The one table. "base" is what mergekit's base model is to the method; the rest as in `Rules`.
MERGEKIT: Mapping[str, Mapping[str, Any]] = {
    "linear": {"base": "model", "defaults": {"normalize": True}},
    "task_arithmetic": {
        "base": "origin",
        "defaults": {"normalize": False},
        "no_effect": ("int8_mask", "rescale"),
    },
    "ties": {"base": "origin", "defaults": {"density": 1.0, "normalize": True}, "no_effect": ("int8_mask",)},
    "dare_linear": {
        "base": "origin",
        "defaults": {"density": 1.0, "normalize": False, "rescale": True},
        "no_effect": ("int8_mask",),
    },
    "dare_ties": {
        "base": "origin",
        "defaults": {"density": 1.0, "normalize": False, "rescale": True},
        "no_effect": ("int8_mask",),
    },
    "della": {
        "base": "origin",
        "defaults": {"density": 1.0, "epsilon": 0.15, "normalize": True, "rescale": True},
        "no_effect": ("int8_mask",),
    },
    "della_linear": {
        "base": "origin",
        "defaults": {"density": 1.0, "epsilon": 0.15, "normalize": False, "rescale": True},
        "no_effect": ("int8_mask",),
    },
    "breadcrumbs": {
        "base": "origin",
        "defaults": {"density": 1.0, "gamma": 0.01, "normalize": False},
        "no_effect": ("int8_mask",),
    },
    "breadcrumbs_ties": {
        "base": "origin",
        "defaults": {"density": 1.0, "gamma": 0.01, "normalize": False},
        "no_effect": ("int8_mask",),
    },
    "model_stock": {"base": "origin", "defaults": {"cosine_floor": 1e-6}, "weighted": False},
    "slerp": {"base": "first", "required": ("t",), "weighted": False},
    "nuslerp": {"base": "maybe"},
    "multislerp": {"base": "maybe"},
    "karcher": {"base": "model", "weighted": False},
    "sce": {"base": "origin", "defaults": {"equal_below": 1e-6}, "no_effect": ("int8_mask",), "weighted": False},
    "arcee_fusion": {"base": "origin", "weighted": False},
    "nearswap": {"base": "origin", "required": ("t",), "weighted": False},
    "ram": {"base": "origin", "renamed": {"threshold": "epsilon"}, "weighted": False},
    "ramplus_tl": {"base": "origin", "renamed": {"threshold": "epsilon"}, "weighted": False},
    PASSTHROUGH: {"base": "model", "base_added": False, "weighted": False},
}

#: Names that mergekit takes for some method: elsewhere they change nothing, in mergekit as here.
MERGEKIT_NAMES = frozenset(
    {
        *("weight", "density", "epsilon", "gamma", "lambda", "normalize", "int8_mask", "rescale", "t", "filter_wise"),
        *("nuslerp_flatten", "nuslerp_row_wise", "normalize_weights", "eps", "max_iter", "tol", "select_topk", "r"),
        *("alpha", "scale"),
    }
)


def method_names() -> tuple[str, ...]:
    """All that `merge_method` may say: mergekit's names, ours and our aliases."""
    ours = [name for record in records() for name in (record.name, *record.aliases)]
    return tuple(dict.fromkeys([*ours, PASSTHROUGH]))


def rules_of(name: Any) -> Rules:
    """The rules of a recipe's `merge_method`.

    Raises:
        RequestError: no such method; the nearest names are offered.
    """
    if not isinstance(name, str) or name not in method_names():
        raise bad("merge_method", name, "the name of a method", nearest(str(name), method_names()))
    if name == PASSTHROUGH:
        return Rules(name, None, **MERGEKIT[name])
    record = next(each for each in records() if name in (each.name, *each.aliases))
    found = MERGEKIT.get(name) or MERGEKIT.get(record.name)
    if found is not None:
        return Rules(name, record, **found)
    base: BaseRole = "model" if record.space == "weight" else "origin"
    return Rules(
        name, record, base, base_added=False, no_effect=("int8_mask",), weighted=record.weighted, known=False
    )  # fmt: skip


def as_ours(rules: Rules, name: str, value: Any) -> Any:
    """A file's value of a parameter as our method takes it (`rescale: true` is mergekit's rule, the L1 norm).

    >>> as_ours(rules_of("dare_ties"), "rescale", True), as_ours(rules_of("ties"), "normalize", 1.0)
    ('l1', True)
    """
    parameter = next(each for each in rules.parameters if each.name == name)
    if takes_flag(parameter) and value in (True, False):
        return "l1" if value else "none"
    if parameter.type is bool and not isinstance(value, bool) and value in (0, 1):
        return bool(value)
    return value


def takes_flag(parameter: Parameter) -> bool:
    """Whether a recipe may say true and false for a word of ours, as mergekit's `rescale` has them."""
    return {"l1", "none"} <= set(parameter.choices or ())


def in_a_recipe(rules: Rules, parameter: Parameter) -> Parameter:
    """A parameter as a recipe has it: of mergekit's methods the density may be 0, which leaves the expert out."""
    limits = parameter.range
    if parameter.name != "density" or not rules.known or limits is None:
        return parameter
    return dataclasses.replace(parameter, range=dataclasses.replace(limits, low_open=False))


def check_value(rules: Rules, given: str, value: Any) -> None:
    """Raise a RequestError where a parameter, by its name in a file, never has such a value."""
    ours = next((ours for ours, spellings in rules.spellings.items() if given in spellings), None)
    if ours is None:
        return
    parameter = in_a_recipe(rules, next(each for each in rules.parameters if each.name == ours))
    dataclasses.replace(parameter, per_expert=False).check(as_ours(rules, ours, value))


def recipe_parameters(name: str) -> dict[str, Parameter]:
    """The parameters of a method as a recipe has them: by the recipe's names, with a recipe's defaults.

    Raises:
        RequestError: no such method.

    Example:
        >>> recipe_parameters("ties")["density"].default, "lambda" in recipe_parameters("ties")
        (1.0, True)
        >>> list(recipe_parameters("passthrough"))
        ['scale']
    """
    rules = rules_of(name)
    found = {}
    for parameter in rules.parameters:
        default = as_ours(rules, parameter.name, rules.defaults.get(parameter.name, parameter.default))
        found[rules.spellings[parameter.name][0]] = dataclasses.replace(parameter, default=default)
    return found
