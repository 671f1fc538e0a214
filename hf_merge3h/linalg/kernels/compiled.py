"""How the loops are compiled, and the sizes that they share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numba

RUN = 2048  # entries whose scratch stays in the first cache
LANES = 64  # partial sums, so that additions do not wait for each other


def kernel(function: Callable[..., Any], **more: Any) -> Any:
    """Compile on the first call, or take what an earlier process compiled; of a function that a test wraps, itself."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", **more}
    plain = inspect.unwrap(function)
    try:
        return numba.njit(cache=True, **options)(plain)
    except RuntimeError:  # this user can write neither beside this file nor into a cache folder: compile each time
        return numba.njit(**options)(plain)
