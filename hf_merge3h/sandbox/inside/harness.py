"""What runs a candidate and its tests, in the interpreter that the untrusted code shares.

Nothing here is secret, and nothing here decides: it sends what the tests computed to the supervisor, which alone knows
what was expected. Its globals hold a private copy of the builtins, so a candidate that replaces `exec`, `len` or
`AssertionError` replaces them for itself.

Frames to the supervisor: `S` walls stand, `R` candidate has run (send the tests), `V` number and value of an
assertion, `E` an exception, `M` out of memory, `T` the word that lay unread in the pipe until the tests were over.
"""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Callable
from marshal import loads
from types import ModuleType
from typing import Any

CHECK = "__hf_check__"
_read, _write, _leave = os.read, os.write, os._exit


def main(confine: Callable[[dict[str, Any]], None], plan: dict[str, Any]) -> None:
    """Confine this process, then run what the supervisor sends; never returns."""
    try:
        confine(plan)
        source, target = os.dup(0), os.dup(1)
        null = os.open("/dev/null", os.O_RDWR)
    except BaseException as error:
        _send(1, b"E" + repr(error).encode())
        _leave(1)
    _send(target, b"S")
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    sys.path += plan["path"]
    for module in ("ctypes", "_ctypes", "resource", "struct", "platform"):
        sys.modules.pop(module, None)
    try:
        _perform(source, target)
    except MemoryError:
        _send(target, b"M")
    except BaseException as error:
        _send(target, b"E" + _describe(error))
    finally:
        _leave(0)


def _perform(source: int, target: int) -> None:
    program = ModuleType("program")
    sys.modules["program"] = program
    program.__dict__["__builtins__"] = builtins
    candidate = _receive(source).decode("utf-8", "surrogatepass")
    exec(compile(candidate, "candidate", "exec", dont_inherit=True), program.__dict__)
    del candidate
    _send(target, b"R")
    code, truths = loads(_receive(source))
    program.__dict__[CHECK] = _checker(target, truths)
    exec(code, program.__dict__)
    _send(target, b"T" + _receive(source))


def _checker(target: int, truths: list[bool]) -> Callable[[int, Any], None]:
    """What stands in the place of `assert`: the value goes out, and is judged elsewhere."""
    held: set[int] = set()

    def check(number: int, value: Any) -> None:
        if truths[number]:
            value = bool(value)
            if value and number in held:  # a loop of a million assertions need not say so a million times
                return
            held.add(number)
        _send(target, b"V" + number.to_bytes(4, "little") + encode(value).encode())
        if truths[number] and not value:
            raise AssertionError

    return check


def _send(target: int, frame: bytes) -> None:
    data = memoryview(len(frame).to_bytes(4, "little") + frame)
    while data:
        data = data[_write(target, data) :]


def _receive(source: int) -> bytes:
    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = _read(source, size - len(data))
            if not more:
                _leave(1)
            data += more
        return data

    return exactly(int.from_bytes(exactly(4), "little"))


def _describe(error: BaseException) -> bytes:
    try:
        return f"{type(error).__name__}: {error}"[:500].encode("utf-8", "replace")
    except BaseException:
        return b"an exception that cannot be shown"


def encode(value: Any) -> str:
    """A value as JSON of tagged lists (strings as hexadecimal UTF-8); whatever is not plain data as its type's name.

    >>> encode([1, "a", 0.5, None])
    '["l",["i","0x1"],["s","61"],["f","0x1.0000000000000p-1"],null]'
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f'["i","{int.__format__(value, "#x")}"]'
    if isinstance(value, float):
        return f'["f","{float.hex(value)}"]'
    if isinstance(value, complex):
        return f'["c","{value.real.hex()}","{value.imag.hex()}"]'
    if isinstance(value, str):
        return f'["s","{str.encode(value, "utf-8", "surrogatepass").hex()}"]'
    if isinstance(value, (bytes, bytearray)):
        return f'["b","{value.hex()}"]'
    if isinstance(value, (list, tuple)):
        return _sequence("l" if isinstance(value, list) else "t", value)
    if isinstance(value, (set, frozenset, _KEYS, _ITEMS)):
        return _sequence("u", value)
    if isinstance(value, dict):
        return '["d"' + "".join(f",[{encode(key)},{encode(item)}]" for key, item in value.items()) + "]"
    return _other(value)


_KEYS: type = type({}.keys())
_ITEMS: type = type({}.items())


def _sequence(tag: str, values: Any) -> str:
    return f'["{tag}"' + "".join("," + encode(value) for value in values) + "]"


def _other(value: Any) -> str:
    kind = type(value)
    if kind.__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return encode(value.item())
    if (kind.__module__, kind.__name__) in (("fractions", "Fraction"), ("decimal", "Decimal")):
        above, below = value.as_integer_ratio()
        return f'["q","{above:#x}","{below:#x}"]'
    return f'["o","{kind.__name__[:100].encode("utf-8", "replace").hex()}"]'
