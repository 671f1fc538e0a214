"""From a test program to an examination: what is asked inside the sandbox, and the answers, which stay outside."""

from __future__ import annotations

import ast
import marshal
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hf_merge3h.errors import bad

from .inside.harness import CHECK

_TRUTH = object()  # what is expected of an assertion that names no literal


@dataclass(frozen=True)
class Examination:
    """A test program whose assertions send a value each; `expected` and `required` never enter the sandbox."""

    payload: bytes  # code and kinds of assertions, marshalled
    expected: tuple[Any, ...]
    sources: tuple[str, ...]
    required: frozenset[int]  # the assertions that a whole run must reach

    def holds_literal(self, number: int) -> bool:
        """Whether assertion `number` compares with a literal."""
        return self.expected[number] is not _TRUTH


def examination(tests: str, name: str = "tests") -> Examination:
    """Take the answers out of a test program.

    `assert f(2) == 4` becomes `check(0, f(2))`, and 4 stays here; any other `assert E` becomes `check(0, E)`, of which
    true is expected. Assertions below `try` and `with` stay as they are: there a failure may be what is tested.

    Raises:
        RequestError: where `tests` is no Python.

    >>> examination("assert f(2) == 4").expected
    (4,)
    """
    try:
        tree = ast.parse(tests)
        rewriter = _Rewriter()
        tree = ast.fix_missing_locations(rewriter.visit(tree))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(tree, "tests", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = f"a Python program ({error})"
        raise bad(name, tests, why, "tests are the data set's, so this is no model's failure") from error
    payload = marshal.dumps((code, [value is _TRUTH for value in rewriter.expected]))
    required = frozenset(rewriter.numbers[id(node)] for node in _certain(tree) if id(node) in rewriter.numbers)
    return Examination(payload, tuple(rewriter.expected), tuple(rewriter.sources), required)


class _Rewriter(ast.NodeTransformer):
    def __init__(self) -> None:
        self.expected: list[Any] = []
        self.sources: list[str] = []
        self.numbers: dict[int, int] = {}  # id of the statement that replaced an assertion -> its number

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        asked, expected = _split(node.test)
        number = len(self.expected)
        self.expected.append(expected)
        self.sources.append(ast.unparse(node.test)[:200])
        call = ast.Call(ast.Name(CHECK, ast.Load()), [ast.Constant(number), asked], [])
        statement = ast.copy_location(ast.Expr(call), node)
        self.numbers[id(statement)] = number
        return statement

    def _as_it_is(self, node: ast.AST) -> ast.AST:
        return node

    visit_Try = visit_TryStar = visit_With = visit_AsyncWith = _as_it_is  # noqa: N815 - ast's names


def _split(test: ast.expr) -> tuple[ast.expr, Any]:
    """The expression that is asked, and the literal that it must equal (`_TRUTH` where there is none)."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        for asked, other in ((test.left, test.comparators[0]), (test.comparators[0], test.left)):
            try:
                return asked, _literal(other)
            except ValueError:
                continue
    return test, _TRUTH


def _literal(node: ast.expr) -> Any:
    """The value of a literal, or of set, frozenset, tuple, list or float of one."""
    try:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords and len(node.args) == 1:
            made = {"set": set, "frozenset": frozenset, "tuple": tuple, "list": list, "float": float}[node.func.id]
            return made(ast.literal_eval(node.args[0]))
        return ast.literal_eval(node)
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("no literal") from error


def _certain(tree: ast.Module) -> list[ast.stmt]:
    """The statements that a run which ends well has passed: of the program, and of functions that it calls plainly."""
    defined = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = Counter(node.name for node in defined)
    functions = {node.name: node for node in defined if names[node.name] == 1}
    found: list[ast.stmt] = []
    for statement in tree.body:
        found.append(statement)
        call = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            function = functions.pop(call.func.id, None)
            if function is not None and not function.decorator_list and not _is_generator(function):
                found += _before_any_way_out(function.body)
    return found


def _before_any_way_out(body: list[ast.stmt]) -> list[ast.stmt]:
    ways_out = (ast.Return, ast.Raise)
    for place, statement in enumerate(body):
        if any(isinstance(node, ways_out) for node in ast.walk(statement)):
            return body[:place]
    return body


def _is_generator(function: ast.FunctionDef) -> bool:
    return any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in ast.walk(function))
