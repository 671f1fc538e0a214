"""Which version of a rule gave a score: the hash of its code, so that old scores and new ones never mix."""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

from .. import __version__

_HERE = Path(__file__).parent


@functools.cache
def rule_hash(home: str) -> str:
    """SHA-256 of a metric's module and of the modules of this package that it imports, the first 16 digits.

    Where the package is installed without its sources, it is that of the package's version.

    Example:
        >>> rule_hash("refusals") == rule_hash("choices")
        False
    """
    parts: dict[str, bytes] = {}
    waiting = [home]
    while waiting:
        name = waiting.pop()
        path = _HERE / f"{name}.py"
        if name not in parts and path.is_file():
            parts[name] = path.read_bytes()
            waiting += _siblings(parts[name])
    told = hashlib.sha256(b"" if parts else __version__.encode())
    for name in sorted(parts):
        told.update(name.encode() + b"\0" + parts[name] + b"\0")
    return told.hexdigest()[:16]


def _siblings(source: bytes) -> list[str]:
    """Names that a module imports of its own package: `from . import a`, `from .b import c`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found += [node.module.partition(".")[0]] if node.module else [each.name for each in node.names]
    return found
