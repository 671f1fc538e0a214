"""Chat templates that a recipe may name, written from the formats that their models publish."""

from __future__ import annotations

import importlib.resources

from ..errors import bad, nearest

#: Names of the files beside this one, without their suffix; as in mergekit.
NAMES = ("alpaca", "chatml", "exaone", "llama3", "mistral")
AUTO = "auto"


def chat_template(given: str) -> str:
    """The template that a recipe's `chat_template` means: a name's, or the text itself (not `auto`).

    Raises:
        RequestError: no such name, and no template of Jinja.

    Example:
        >>> chat_template("chatml").count("<|im_start|>")
        2
    """
    if given in NAMES:
        return importlib.resources.files(__package__).joinpath(f"templates/{given}.jinja").read_text(encoding="utf-8")
    if "{{" not in given and "{%" not in given:
        names = (*NAMES, AUTO)
        raise bad("chat_template", given, "a Jinja template, or a name", nearest(given, names))
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(_plain_marks(given))
    except (TemplateError, RecursionError) as problem:
        raise bad("chat_template", given, f"a Jinja template, and this is none: {problem}") from None
    return given


def _plain_marks(text: str) -> str:
    """Without the tags that transformers adds to Jinja."""
    return text.replace("{% generation %}", "").replace("{% endgeneration %}", "")
