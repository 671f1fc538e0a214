"""The errors a user meets, each in one form: what, which value, what was expected, what to do.

Imports nothing, so that every room of the house can raise them.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

_SHOWN = 120  # characters of a value that an error repeats; a hostile 10,000-character id must not flood the screen
_LISTED = 20  # problems that one error lists before it counts the rest
_LITERAL = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?<![\w.])(True|False|None|inf[\])]?|nan)(?!\w)""")
_IN_YAML = {
    "True": "true",
    "False": "false",
    "None": "null",
    "inf": ".inf",
    "nan": ".nan",
    "inf]": "inf)",
    "inf)": "inf)",
}


class MergeError(Exception):
    """Base of every error that this library raises on purpose."""


class RequestError(MergeError, ValueError):
    """The request cannot be carried out as it was made; nothing has been changed.

    Attributes:
        argument: the one argument (or parameter, or key) that it is about; empty where it is about none, or several.
        value: what that was.
        reason: what is wrong with it: the message without argument and value. So whoever knows more than who found the
            error (the name by which the user said it, the line of a file) can tell it again.
        instead: another parameter and the value of it that would do too; the reason ends with it.
        within: the part that it is about, as the caller named it (an adapter on a model), where it is about one.
        in_recipe: words of the reason that a recipe's writer can do nothing with, and what to say there in their place.
    """

    argument: str = ""
    value: Any = None
    reason: str = ""
    instead: tuple[str, Any] | None = None
    within: str | None = None
    in_recipe: tuple[str, str] | None = None

    def renamed(self, argument: str) -> RequestError:
        """The same error about an argument that the user knows by another name.

        >>> str(wrong("source", "./no", "no such folder").renamed("base"))
        "base='./no': no such folder"
        >>> bad("out", "m", "a new folder", instead=("overwrite", True)).renamed("into").instead
        ('overwrite', True)
        """
        if not self.argument:
            return self
        error = wrong(argument, self.value, self.reason, type(self))
        error.instead, error.within, error.in_recipe = self.instead, self.within, self.in_recipe
        return error

    def of_recipe(self) -> RequestError:
        """The same error as a recipe's reader is told it: values, and what would do too, as they stand in YAML.

        >>> str(bad("weights", [1, -1], "another sum", instead=("normalize", False)).of_recipe())
        'weights=[1, -1]: expected another sum; or set normalize: false'
        >>> str(bad("normalize", None, "True or False").of_recipe())
        'normalize=null: expected true or false'
        """
        error: RequestError = self
        if self.instead is not None:
            name, value = self.instead
            error = self._with(f"set {name}: {json.dumps(value)}")
        if self.in_recipe is not None:
            error = wrong(self.argument, self.value, error.reason.replace(*self.in_recipe), type(self))
        said = type(self)(in_yaml(str(error)))
        said.argument, said.value, said.reason = error.argument, error.value, in_yaml(error.reason)
        return said

    def of_command_line(self) -> RequestError:
        """The same error as who typed a command is told it: what would do too is a flag.

        >>> str(bad("out", "m", "a new folder", instead=("overwrite", True)).of_command_line())
        "out='m': expected a new folder; or pass --overwrite"
        """
        if self.instead is None or self.instead[1] is not True:
            return self
        return self._with(f"pass --{self.instead[0].replace('_', '-')}")

    def _with(self, remedy: str) -> RequestError:
        """The same error with another remedy than Python's."""
        assert self.instead is not None
        reason = self.reason.removesuffix(_or_pass(*self.instead)) + f"; or {remedy}"
        return wrong(self.argument, self.value, reason, type(self))


class SourceError(RequestError, OSError):
    """A model or adapter that was named cannot be read."""


class OutputError(MergeError, OSError):
    """The request made sense, and writing its result failed: no space, no right to write. Nothing was left behind."""


class MergeWarning(UserWarning):
    """A merge was carried out, and there is something about it that a careful user should know."""


def show(value: object) -> str:
    """`repr` of a value, on one line and cut to a length that fits it.

    >>> show("a" * 200)[-24:]
    'aaaa... (202 characters)'
    """
    return _fitted(repr(value))


def label_of(name: str) -> str:
    """`show` of a name without the quotes, as what is said of it begins.

    >>> label_of("me/help\\nful"), label_of("a" * 200)[-24:]
    ('me/help\\\\nful', 'aaaa... (200 characters)')
    """
    return _fitted(repr(name)[1:-1])


def _fitted(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 20]}... ({len(text)} characters)"


def in_yaml(text: str) -> str:
    """Python's words for truth, nothing and infinity as YAML has them, except in quoted text.

    No number of a recipe is infinite (its manifest is JSON), so no interval has infinity in it.

    >>> in_yaml("t=['True', True, -inf, 1]: expected a number in [0, inf], or None")
    "t=['True', true, -.inf, 1]: expected a number in [0, inf), or null"
    """
    return _LITERAL.sub(lambda found: _IN_YAML.get(found[1], found[0]), text)


def wrong(argument: str, value: object, reason: str, kind: type[RequestError] = RequestError) -> RequestError:
    """The one form of an error about an argument, which it carries as data.

    >>> error = wrong("source", "./no", "no such folder", SourceError)
    >>> str(error), error.argument, error.value
    ("source='./no': no such folder", 'source', './no')
    """
    error = kind(f"{argument}={show(value)}: {reason}")
    error.argument, error.value, error.reason = argument, value, reason
    return error


def bad(
    argument: str, value: object, expected: str, remedy: str = "", *, instead: tuple[str, Any] | None = None
) -> RequestError:
    """The error about an argument of which it can be said what was expected.

    `instead` is another parameter with a value that would do too: Python's callers are told to pass it, and readers of
    a recipe how to write it there.

    >>> str(bad("density", 1.5, "a number in [0, 1]", "leave it out for 0.2"))
    'density=1.5: expected a number in [0, 1]; leave it out for 0.2'
    >>> str(bad("weights", [1, -1], "another sum", instead=("normalize", False)))
    'weights=[1, -1]: expected another sum; or pass normalize=False'
    """
    reason = f"expected {expected}" + (f"; {remedy}" if remedy else "") + (_or_pass(*instead) if instead else "")
    error = wrong(argument, value, reason)
    error.instead = instead
    return error


def _or_pass(name: str, value: object) -> str:
    return f"; or pass {name}={value!r}"


def one_line_of(problem: BaseException) -> str:
    """What an error of another library says, in one line.

    >>> one_line_of(ValueError("Validation error for field 'depth':\\n    expected int")), one_line_of(KeyError())
    ("Validation error for field 'depth': expected int", 'KeyError')
    """
    text = " ".join(str(problem).split())
    return f"{text[:300]}..." if len(text) > 303 else text or type(problem).__name__


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint with the nearest known names, or all of them where none is near.

    >>> nearest("tie", ["ties", "linear"])
    "did you mean 'ties'?"
    """
    known = list(known)
    close = near(word, known)
    if close:
        return "did you mean " + " or ".join(map(repr, close)) + "?"
    return "choose from " + ", ".join(known)


def near(word: str, known: Iterable[str]) -> list[str]:
    """At most three known names that this may be a misspelling of, the nearest first.

    >>> near("densty", ["density", "weight"])
    ['density']
    """
    plain = {name.lower().replace("-", "_"): name for name in known}
    close = difflib.get_close_matches(str(word)[:100].lower().replace("-", "_"), plain, n=3, cutoff=0.55)
    return [plain[name] for name in close]


class Problems:
    """Collects what is wrong, so that a user hears all of it at once.

    >>> problems = Problems("3 experts cannot be merged")
    >>> problems.add("a: no such tensor")
    >>> problems.raise_any()
    Traceback (most recent call last):
    ...
    hf_merge3h.errors.RequestError: 3 experts cannot be merged:
      - a: no such tensor
    """

    def __init__(self, title: str, error: type[RequestError] = RequestError) -> None:
        self.title, self.error = title, error
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        """Note one more problem (a repeated one counts once)."""
        if problem not in self.found:
            self.found.append(problem)

    def raise_any(self) -> None:
        """Raise one error that lists what was found, if anything was."""
        if not self.found:
            return
        lines = [f"  - {problem}" for problem in self.found[:_LISTED]]
        if len(self.found) > _LISTED:
            lines.append(f"  ... and {len(self.found) - _LISTED} more")
        raise self.error(f"{self.title}:\n" + "\n".join(lines))


def all_or_every_error(jobs: Iterable[Callable[[], T]], title: str) -> list[T]:
    """What the jobs return; where several are refused, one error that tells of each.

    >>> def refuse(): raise RequestError("a: no such tensor")
    >>> all_or_every_error([lambda: 1, refuse, refuse], "experts")
    Traceback (most recent call last):
    ...
    hf_merge3h.errors.RequestError: experts:
      - a: no such tensor
    """
    done: list[T] = []
    refused: list[RequestError] = []
    for job in jobs:
        try:
            done.append(job())
        except RequestError as problem:
            refused.append(problem)
    if len(refused) == 1:
        raise refused[0]
    unread = all(isinstance(each, SourceError) for each in refused)
    problems = Problems(title, SourceError if unread else RequestError)
    for each in refused:
        problems.add(str(each).replace("\n", "\n  "))
    problems.raise_any()
    return done
