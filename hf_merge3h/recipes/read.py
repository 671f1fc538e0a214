"""Read a recipe: YAML or plain data in, a checked `Recipe` out; no model is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path as FilePath
from typing import Any

from ..errors import Problems, RequestError, SourceError, bad, in_yaml, show, wrong
from .chat import AUTO, chat_template
from .keys import DTYPES, TOP, Page
from .marks import MOST_CHARACTERS, Marked, from_data, parse
from .mergekit import Rules, rules_of
from .references import Models
from .slices import make_jobs, output_layers
from .structure import read_body
from .tokenizer import read_tokenizer
from .types import SEED_BITS, Recipe


def read_recipe(path_or_text_or_dict: Any, label: str | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        path_or_text_or_dict: a file's path, YAML text (what has a line break or a colon and a space), or plain data.
        label: what messages call it; the file's name if left out.

    Raises:
        RequestError: lists all that is wrong, with file and line, the value, what was expected and what to do.

    Example:
        >>> recipe = read_recipe("merge_method: ties\\nbase_model: b\\nmodels: [{model: x}, {model: y+lora}]")
        >>> [model.source for model in recipe.models], recipe.base
        (['x', 'y', 'b'], 2)
    """
    text = _open(path_or_text_or_dict, label)
    if not isinstance(text.data, dict):
        raise RequestError(
            f"{text.where(())}: a recipe is a mapping with merge_method and models, not {in_yaml(show(text.data))}"
        )
    page = Page(text)
    data = text.data
    rules = page.rules = _rules(page, data)
    page.mapping(data, (), TOP, "a recipe")
    if rules is None:
        raise _error(page)
    models = Models(page)
    body = read_body(page, data, rules, models)
    roles = models.roles(data.get("roles"), body.base if body else None)
    tokenizer = read_tokenizer(page, data, models)  # after the roles: a model named only here is no expert
    plain = _plain_fields(page, data)
    if page.problems or body is None:
        raise _error(page)
    references = models.references(roles)
    body = replace(body, labels=tuple(each.given for each in references), matched=tokenizer is not None)
    return Recipe(
        models=references,
        base=body.base,
        jobs=partial(make_jobs, body),
        layers=partial(output_layers, body),
        tokenizer=tokenizer,
        given=text.data,
        label=text.label,
        text=text,
        method=rules.name,
        warnings=tuple(page.warnings),
        **plain,
    )


def _open(given: Any, label: str | None) -> Marked:
    if isinstance(given, Mapping):
        return from_data(given, label or "recipe")
    if isinstance(given, str) and ("\n" in given or ": " in given or not given.strip()):
        return parse(given, label or "recipe")
    if not isinstance(given, (str, FilePath)):
        raise bad("recipe", given, "a path, YAML text or a dict")
    path = FilePath(given)
    if os.path.isdir(path):  # false, too, of what is no path at all
        raise bad("recipe", str(path), "a YAML file, and this is a folder")
    name = label or os.fsencode(path.name).decode("utf-8", "replace")  # a manifest is UTF-8, a name any bytes
    try:
        with path.open("rb") as file:
            raw = file.read(4 * MOST_CHARACTERS + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise wrong("recipe", str(path), f"expected a YAML file that can be read: {why}", SourceError) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RequestError(
            f"{name}:{line}: no UTF-8 text: byte {error.start} is {raw[error.start]:#x}; save it as UTF-8"
        ) from error
    return parse(text, name)


def _rules(page: Page, data: Mapping[str, Any]) -> Rules | None:
    if "merge_method" not in data:
        page.say((), "the recipe has no merge_method")
        return None
    try:
        return rules_of(data["merge_method"])
    except RequestError as error:
        page.refused(("merge_method",), error)
        return None


def _plain_fields(page: Page, data: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("dtype", "out_dtype"):
        value = data.get(name)
        if value is not None:
            plain = value.removeprefix("torch.") if isinstance(value, str) else value
            if plain not in DTYPES:
                page.bad((name,), value, ", ".join(DTYPES), "or leave it out to keep each tensor's own")
            found[name] = plain
    seed = data.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed.bit_length() > SEED_BITS:
        page.bad(("seed",), seed, f"an integer of at most {SEED_BITS} bits")
    out = data.get("out", "weights")
    if out not in ("weights", "adapter"):
        page.bad(("out",), out, "weights or adapter")
    template = data.get("chat_template")
    if template is not None and not isinstance(template, str):
        page.bad(("chat_template",), template, "auto, the name of a template, or a template")
    elif template and template != AUTO:
        try:
            chat_template(template)
        except RequestError as error:
            page.refused(("chat_template",), error)
    return {**found, "seed": seed, "out": out, "chat_template": template}


def _error(page: Page) -> RequestError:
    page.refuse_values()
    problems = Problems(f"{page.text.label} is no recipe that can be carried out")
    for problem in page.problems:
        problems.add(problem)
    try:
        problems.raise_any()
    except RequestError as error:
        return error
    return RequestError(f"{page.text.label}: nothing to merge")
