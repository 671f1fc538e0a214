"""`tokenizer_source` and `tokenizer`, brought to one form (see `Recipe.tokenizer`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import near, nearest
from .keys import TOKENIZER, Page
from .marks import Path
from .references import Models


def read_tokenizer(page: Page, data: Mapping[str, Any], models: Models) -> dict[str, Any] | None:
    """The tokenizer that a recipe asks for; None where it asks for none."""
    source, full = data.get("tokenizer_source"), data.get("tokenizer")
    if source is not None and full is not None:
        page.say(("tokenizer_source",), "and tokenizer are both given; keep one of them")
        return None
    if source is not None:
        return {
            "source": _source(page, source, ("tokenizer_source",), models),
            "tokens": {},
            "pad_to_multiple_of": None,
        }
    if full is None:
        return None
    given = page.mapping(full, ("tokenizer",), TOKENIZER, "a tokenizer")
    if given is None:
        return None
    tokens: dict[str, Any] = {}
    if given.get("tokens") is not None:
        if not isinstance(given["tokens"], dict):
            page.bad(("tokenizer", "tokens"), given["tokens"], "a mapping of tokens")
        else:
            for token, value in given["tokens"].items():
                tokens[token] = _token(page, value, ("tokenizer", "tokens", token), models)
    multiple = given.get("pad_to_multiple_of")
    if multiple is not None and (isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1):
        page.bad(("tokenizer", "pad_to_multiple_of"), multiple, "a whole number of at least 1")
    source = given.get("source")
    if source is None:
        page.say(("tokenizer",), "has no source: base, union or a model")
    return {
        "source": _source(page, source, ("tokenizer", "source"), models) if source is not None else None,
        "tokens": tokens,
        "pad_to_multiple_of": multiple,
    }


def _source(page: Page, value: Any, path: Path, models: Models) -> Any:
    if value in ("base", "union"):
        return value
    named = isinstance(value, str) and ("/" in value or value in models or os.path.exists(value))
    if isinstance(value, str) and not named and near(value, ("base", "union")):
        page.bad(path, value, "base, union or a model", nearest(value, ("base", "union")))
        return None
    return models.add(value, path)


def _token(page: Page, value: Any, path: Path, models: Models) -> dict[str, Any]:
    given = page.mapping(value, path, ("source", "force"), "where the token's embedding comes from") or {}
    force = given.get("force", False)
    if not isinstance(force, bool):
        page.bad((*path, "force"), force, "true or false")
    source = given.get("source")
    if not isinstance(source, dict) or ("model" in source and set(source) <= {"model", "lora"}):
        plain = None if source is None else {"kind": "model", "model": models.add(source, (*path, "source"))}
        return {"source": plain, "force": force}
    here = (*path, "source")
    kind = source.get("kind")
    if kind == "zero":
        page.mapping(source, here, ("kind",), "a zero embedding")
        return {"source": {"kind": "zero"}, "force": force}
    if kind != "model_token":
        page.bad((*here, "kind"), kind, "zero or model_token")
        return {"source": None, "force": force}
    page.mapping(source, here, ("kind", "model", "token", "token_id"), "a token of a model")
    token, number = source.get("token"), source.get("token_id")
    if (token is None) == (number is None):
        page.say(here, "needs one of token and token_id")
    if token is not None and not isinstance(token, str):
        page.bad((*here, "token"), token, "text")
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
        page.bad((*here, "token_id"), number, "a whole number of at least 0")
    plain = {"kind": "model_token", "model": models.add(source.get("model"), (*here, "model"))}
    plain |= {"token": token} if token is not None else {"token_id": number}
    return {"source": plain, "force": force}
