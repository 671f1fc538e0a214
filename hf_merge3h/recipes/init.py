"""A first recipe, with comments that say what can be changed."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ..errors import RequestError, bad
from .json_schema import SCHEMA
from .mergekit import PASSTHROUGH, Rules, rules_of
from .schema_values import expected_in_recipe

_WIDTH = 100


def commented_recipe(
    models: Sequence[str] | Mapping[str, str],
    base: str | None,
    method: str,
    *,
    adapters: bool = False,
    editor: bool = False,
) -> str:
    """YAML for these models: every parameter of the method is in it, the optional ones as comments.

    Args:
        models: the experts, or a mapping of roles to them.
        base: what their task vectors are measured from; None for methods that need none.
        method: name of the method.
        adapters: the experts are PEFT adapters on the base, and an adapter comes out.
        editor: the first line tells editors where the recipes' schema lies on this machine.

    Raises:
        RequestError: no models or one twice, no such method, more or fewer than it merges, or no base where it needs
            one.

    Example:
        >>> print(commented_recipe(["me/helpful"], "me/base", "nearswap").splitlines()[0])
        # NearSwap: Take small changes whole and of large ones no more than t.
    """
    names = list(models.values()) if isinstance(models, Mapping) else list(models)
    if isinstance(models, str) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise bad("models", models, "at least one folder or Hub id")
    rules = rules_of(method)
    if rules.base in ("origin", "first") and base is None:
        raise _no_base(f"{rules.name} needs the model that the experts were trained from")
    if adapters and base is None:
        raise _no_base("adapters are merged on the model that they were trained on")
    if adapters and (rules.method is None or rules.base == "first"):
        raise bad("method", method, "a method of task vectors: adapters are merged by one")
    if base is not None and not base.strip():
        raise bad("base", base, "a folder or Hub id")
    _check_count(rules, names, base)
    lines = [f"# yaml-language-server: $schema={SCHEMA.as_uri()}"] if editor else []
    lines += [*_heading(rules), f"merge_method: {rules.name}", ""]
    if base is not None:
        lines += [*_base(rules, base, adapters), ""]
    lines += _adapters(rules, names) if adapters else _models(rules, names)
    if isinstance(models, Mapping):
        roles = [f"  {_text(role)}: {_text(name)}" for role, name in models.items()]
        lines += ["", "# What each expert stands for, in reports and cards.", "roles:", *roles]
    return "\n".join([*lines, "", *_shared(rules), *_tail(rules, adapters)]) + "\n"


def _no_base(why: str) -> RequestError:
    return RequestError(f"base is not given: {why}; give base=, a folder or Hub id (on the command line --base)")


def _check_count(rules: Rules, names: Sequence[str], base: str | None) -> None:
    """Raise a RequestError where the reader of recipes would not take that many models."""
    if rules.method is None:
        return
    if len(set(names)) < len(names):
        raise bad("models", list(names), "different ones; give each once")
    others = [name for name in names if name != base]
    try:
        rules.method.check_experts(len(others) + (rules.base == "first"))
    except RequestError as error:
        raise RequestError(f"{error}{'; the base counts as one of them' if rules.base == 'first' else ''}") from None


def _base(rules: Rules, base: str, adapters: bool) -> list[str]:
    if rules.base == "model" and rules.base_added and not adapters:
        return [
            f"# {rules.name} merges the models themselves: {_text(base)} would be one more of them.",
            "# To have it among them, list it under models.",
        ]
    told = "# What the experts were trained from; config and tokenizer are taken from here."
    return [told, f"base_model: {_text(base)}"]


def _heading(rules: Rules) -> list[str]:
    if rules.method is None:
        return ["# Passthrough: copy tensors, for stacks of layers."]
    text = f"{rules.method.shown_title}: {rules.method.summary}"
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH)]


def _models(rules: Rules, names: Sequence[str]) -> list[str]:
    if rules.name == PASSTHROUGH:
        lines = [
            "# Each slice takes layers first to last - 1 of one model; the output has all of them, in this order.",
            "slices:",
        ]
        for name in names:
            lines += ["  - sources:", f"      - model: {_text(name)}", "        layer_range: [0, 1]"]
        return lines
    lines = ["# Folders or Hub ids; model@revision, and model+adapter for a PEFT adapter on a model.", "models:"]
    for number, name in enumerate(names):
        lines.append(f"  - model: {_text(name)}")
        if not rules.weighted:
            continue
        share = 1.0 / len(names) if rules.method is not None and rules.method.unit_weights else 1.0
        lines += ["    parameters:", f"      weight: {share:g}" + _note("how much it counts", number)]
        for ours in sorted(rules.per_model):
            lines.append(
                f"      # {_spelling(rules, ours)}: {_value(rules, ours)}" + _note("may differ by model", number)
            )
    return lines


def _adapters(rules: Rules, names: Sequence[str]) -> list[str]:
    entries = [line.replace("  - model: ", "  - adapter: ", 1) for line in _models(rules, names)[2:]]
    return ["# PEFT adapters of the base: folders or Hub ids.", "adapters:", *entries]


def _shared(rules: Rules) -> list[str]:
    """The recipe's parameters, with what each means; those without a default are no comments."""
    if rules.method is None:
        return []
    described = []
    for parameter in rules.method.parameters:
        mark = "" if parameter.name in rules.required else "# "
        words = f"{parameter.help} ({expected_in_recipe(parameter)})"
        described += [f"  # {line}" for line in textwrap.wrap(words, _WIDTH - 4)]
        described.append(f"  {mark}{_spelling(rules, parameter.name)}: {_value(rules, parameter.name)}")
    if not described:
        return []
    head = [
        "# A list is a gradient over the layers, for example [0, 0.5, 1]; conditions on tensor names are a list of",
        "# - {filter: mlp, value: 0.5}, the last one without a filter.",
    ]
    empty = not any(not line.lstrip().startswith("#") for line in described)
    return [*head, "# parameters:" if empty else "parameters:", *described, ""]


def _tail(rules: Rules, adapters: bool) -> list[str]:
    if adapters:
        lines = ["# leave this out to merge into whole weights", "out: adapter"]
        return [*lines, *(["seed: 0"] if rules.method is not None and rules.method.random else [])]
    lines = ["# dtype: bfloat16            # of the output; left out, each tensor keeps its own"]
    lines.append("# tokenizer_source: base     # whose tokenizer the output gets: base, or one of the models")
    if rules.method is not None and rules.method.random:
        lines.append("seed: 0                      # of the random masks")
    return lines


def _spelling(rules: Rules, ours: str) -> str:
    return rules.spellings[ours][0]


def _value(rules: Rules, ours: str) -> str:
    assert rules.method is not None
    parameter = next(each for each in rules.method.parameters if each.name == ours)
    value: Any = rules.defaults.get(ours, parameter.default)
    return "null" if value is None else json.dumps(value)


def _note(text: str, number: int) -> str:
    return f"  # {text}" if number == 0 else ""


def _text(value: str) -> str:
    """A YAML scalar that stands for this text whatever is in it."""
    plain = value.replace("/", "").replace("-", "").replace("_", "").replace(".", "")
    simple = plain.isalnum() and value[0].isalpha() and yaml.safe_load(value) == value  # not yes, no, null
    return value if simple else json.dumps(value)
