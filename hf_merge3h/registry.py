"""One frozen record for each merging method, read by everything that needs to know what a method is.

The keyword-only part of a method's signature **is** its schema: validation, command-line help, the documentation's
tables and the controls of the Space are derived from it, and nothing about a method is written down twice.

    @method("task_arithmetic", title="Task arithmetic", paper="arXiv:2212.04089", family="linear")
    def task_arithmetic(deltas: Float[Tensor, "task batch *shape"], weights: Float[Tensor, "task"],
                        *, scale: Annotated[float, Range()] = 1.0) -> Float[Tensor, "batch *shape"]: ...

This module imports neither torch nor the methods: `get_method` and `list_methods` load them when first asked.
"""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .errors import RequestError, bad, nearest, wrong
from .passes import Accumulator, Parts
from .schema import Parameter, PerExpert, Range, read_schema, read_weights

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "LAWS",
    "Accumulator",
    "Method",
    "Parts",
    "PerExpert",
    "Range",
    "get_method",
    "list_methods",
    "method",
    "unregister",
]

Space = Literal["delta", "weight"]

#: Laws that the suite in `tests/methods/test_laws.py` runs over every method; a method that does not obey one
#: says so, and why, in `exempt`.
LAWS: Mapping[str, str] = types.MappingProxyType(
    {
        "identity": "one expert at weight 1 (or that expert given to all places) returns that expert",
        "permutation": "the order of the experts changes nothing",
        "homogeneity": "scaling all deltas by c scales the result by c",
        "zeros": "zero deltas give a zero delta",
        "batched": "a stack of tensors gives what a loop over them gives",
        "low_rank": "factors give what the matrices they stand for give",
        "gauge": "(B, A) -> (B R, R^-1 A) changes nothing",
        "rotation": "changes of orthonormal basis, left and right, commute with the method",
    }
)


@dataclass(frozen=True)
class Method:
    """All that is known of a merging method; call it to merge tensors directly.

    Attributes:
        name, aliases, title, family, paper: how it is called and where it is from.
        function: merges stacks: `function(vectors [task, batch, *shape], weights [task], **parameters)`; it returns
            [batch, *shape], or a LowRank where the result has that form.
        parameters: the schema, from the function's keyword-only arguments.
        space: what `function` receives: task vectors ("delta") or whole weights ("weight").
        delta_form: a "weight" method that may also be given task vectors (then the result is a task vector): True,
            or a function of the parameters and weights that says so; adapters have no weights and need this.
        weight_form: a "delta" method that may also be given whole weights where there is no base.
        matrix_only: spectral; what is not a matrix gets the weighted average of its task vectors instead.
        low_rank: the same method over a tuple of LowRank (one a task), without forming a matrix.
        low_rank_when: says from the parameters whether `low_rank` applies (None: always).
        prepare: makes the Accumulator of a first pass, or None where these parameters need none.
        elementwise: each entry of the result depends on the same entry of the vectors alone.
        parts: `parts(parameters, weights, supplied, shape)` makes the `Parts` of one tensor of this shape where the
            method can be carried out part by part with the same bits (None: not with these parameters).
        experts: least and greatest number of experts.
        check: raises a RequestError where parameters and weights do not fit together.
        weighted: False where the formula names no weights; they must then all be equal.
        unit_weights: default weights sum to one (1/T each) instead of being 1 each.
        random: draws masks.
        exempt: the laws it does not obey, with the reason.
        reconstruction: what must be said wherever the method is described.
    """

    name: str
    title: str
    paper: str
    family: str
    function: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    aliases: tuple[str, ...] = ()
    space: Space = "delta"
    delta_form: bool | Callable[[Mapping[str, Any], Sequence[float]], bool] = False
    weight_form: bool = False
    matrix_only: bool = False
    low_rank: Callable[..., Any] | None = None
    low_rank_when: Callable[[Mapping[str, Any]], bool] | None = None
    prepare: Callable[[Mapping[str, Any], int], Accumulator | None] | None = None
    elementwise: bool = False
    parts: Callable[[Mapping[str, Any], Any, Mapping[str, Any], tuple[int, ...]], Parts | None] | None = None
    experts: tuple[int, int | None] = (1, None)
    weighted: bool = True
    unit_weights: bool = False
    check: Callable[[Mapping[str, Any], Sequence[float]], None] | None = None
    random: bool = False
    exempt: Mapping[str, str] = field(default_factory=dict)
    reconstruction: str = ""
    needs: frozenset[str] = frozenset()

    @property
    def shown_title(self) -> str:
        """The title, and that it is a reconstruction where it is one: how every list names the method."""
        return self.title + (" (reconstruction)" if self.reconstruction else "")

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return inspect.getdoc(self.function).splitlines()[0]  # type: ignore[union-attr]

    @property
    def description(self) -> str:
        """The whole docstring."""
        return inspect.getdoc(self.function) or ""

    @property
    def ordered(self) -> bool:
        """Whether the order of the experts means something (masks follow the experts' roles, whatever their order)."""
        return "permutation" in self.exempt and not self.random

    @property
    def engine_parameters(self) -> frozenset[str]:
        """Parameters that the engine acts on and does not pass to the function."""
        return frozenset({SPECTRAL_EMBEDDINGS.name}) if self.matrix_only else frozenset()

    @property
    def laws(self) -> tuple[str, ...]:
        """The laws that this method obeys (each one that applies to it and is not in `exempt`)."""
        applicable = [law for law in LAWS if not (law in ("low_rank", "gauge") and self.low_rank is None)]
        if not self.matrix_only:
            applicable.remove("rotation")
        return tuple(law for law in applicable if law not in self.exempt)

    def bind(self, parameters: Mapping[str, Any], n_experts: int | None = None) -> dict[str, Any]:
        """Check parameters against the schema and fill in defaults.

        Raises:
            RequestError: for an unknown name (the nearest is offered) or a value out of range.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in parameters:
            if name not in known:
                hint = nearest(name, known) if known else "it takes none"
                raise wrong(name, parameters[name], f"method {self.name!r} has no such parameter; {hint}")
        return {
            name: parameter.check(parameters.get(name, parameter.default), n_experts)
            for name, parameter in known.items()
        }

    def bind_weights(self, weights: Sequence[float] | None, n_experts: int) -> tuple[float, ...]:
        """Check one weight for each expert, or supply the defaults.

        Raises:
            RequestError: another length, NaN or infinite, all zero, or unequal where the method takes no weights.
        """
        if weights is None:
            return ((1.0 / n_experts) if self.unit_weights else 1.0,) * n_experts
        values = read_weights(weights, n_experts)
        if not self.weighted and len(set(values)) > 1:
            raise bad(
                "weights", list(values), f"equal weights: the formula of {self.name!r} names none", "leave them out"
            )
        return values

    def takes_deltas(self, parameters: Mapping[str, Any], weights: Sequence[float]) -> bool:
        """Whether the method can be given task vectors (a "weight" method only where it has a delta form)."""
        if self.space == "delta":
            return True
        return self.delta_form if isinstance(self.delta_form, bool) else self.delta_form(parameters, weights)

    def keeps_agreement(self, parameters: Mapping[str, Any], weights: Sequence[float]) -> bool:
        """Whether a tensor that is the base's in every expert comes out as it is: no sum of other weights than 1."""
        return isinstance(self.delta_form, bool) or self.delta_form(parameters, weights)

    def check_request(self, parameters: Mapping[str, Any], weights: Sequence[float]) -> None:
        """Raise a RequestError where the method's own `check` finds parameters and weights that do not fit together."""
        if self.check is not None:
            self.check(parameters, weights)

    def check_experts(self, n_experts: int) -> None:
        """Raise a RequestError unless the method takes this number of experts."""
        low, high = self.experts
        if n_experts < low or (high is not None and n_experts > high):
            wanted = f"exactly {low}" if low == high else f"at least {low}" if high is None else f"{low} to {high}"
            raise RequestError(f"experts: {n_experts} given, but method {self.name!r} merges {wanted}")

    def fallback(self, shape: Sequence[int], n_experts: int) -> bool:
        """Whether a tensor of this shape gets the average instead of the method (spectral methods only)."""
        return self.matrix_only and (len(shape) != 2 or min(shape) < n_experts)

    def __call__(self, vectors: Any, weights: Any = None, **parameters: Any) -> Tensor | Any:
        """Merge one tensor of each expert: `vectors` [task, *shape] or a sequence of LowRank -> [*shape].

        Random methods take `seed=` (default 0); methods that look at the base take `base=` [*shape].
        """
        from .apply import call_directly

        return call_directly(self, vectors, weights, parameters)


#: A parameter of every spectral method that the engine acts on, not the function.
SPECTRAL_EMBEDDINGS = Parameter(
    name="spectral_embeddings",
    type=bool,
    default=False,
    help="Treat embeddings and lm_head as matrices too, instead of averaging their task vectors.",
)

_METHODS: dict[str, Method] = {}
_ALIASES: dict[str, str] = {}


def method(
    name: str,
    *,
    title: str,
    paper: str,
    family: str,
    aliases: tuple[str, ...] = (),
    **facts: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the merging method `name`; `facts` are further fields of `Method`.

    Raises:
        ValueError: the name is taken, a law in `exempt` is unknown, or a keyword-only argument has no schema.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for each in (name, *aliases):
            if each in _METHODS or each in _ALIASES:
                raise ValueError(f"a method named {each!r} is registered already")
        unknown = set(facts.get("exempt", {})) - set(LAWS)
        if unknown:
            raise ValueError(f"method {name!r} is exempt from unknown laws: {sorted(unknown)}")
        parameters, needs = read_schema(function)
        if facts.get("matrix_only"):
            parameters += (SPECTRAL_EMBEDDINGS,)
        _METHODS[name] = Method(
            name=name, title=title, paper=paper, family=family, aliases=aliases,
            function=function, parameters=parameters, needs=needs, **facts,
        )  # fmt: skip
        _ALIASES.update(dict.fromkeys(aliases, name))
        return function

    return register


def unregister(name: str) -> None:
    """Take a method out again (for tests and notebooks that define their own)."""
    record = _METHODS.pop(name)
    for alias in record.aliases:
        del _ALIASES[alias]


def any_registered() -> bool:
    """Whether the methods, or a user's own, have been imported."""
    return bool(_METHODS)


def get_method(name: str) -> Method:
    """The record of a method, by name or alias.

    Raises:
        RequestError: no such method; the nearest names are offered.
    """
    importlib.import_module("hf_merge3h.methods")
    resolved = _ALIASES.get(name, name) if isinstance(name, str) else name
    if not isinstance(name, str) or resolved not in _METHODS:
        raise wrong("method", name, f"unknown; {nearest(str(name), [*_METHODS, *_ALIASES])}")
    return _METHODS[resolved]


def list_methods() -> tuple[Method, ...]:
    """All methods, in the order of their registration (families together)."""
    importlib.import_module("hf_merge3h.methods")
    return tuple(_METHODS.values())
