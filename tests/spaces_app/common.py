"""What tests of the Space share."""

from __future__ import annotations

import json
import math

import editing
from tensors import Teller

DEMO = editing.examples()["demo"]


class Silent(Teller):
    """Remembers what it would have shown; stops at a share, if told to."""

    shares: list[float] = []  # noqa: RUF012 - all of a test's
    last = math.inf

    def say(self, share: float, text: str) -> None:
        self.shares.append(share)
        if share >= self.last:
            self.stop.touch()


def recipe(*sources: str, base: str = "HuggingFaceTB/SmolLM2-135M-Instruct") -> str:
    rows = "".join(f"  role{n}: {json.dumps(source)}\n" for n, source in enumerate(sources))
    return f"merge_method: ties\nbase_model: {json.dumps(base)}\nadapters:\n{rows}"
