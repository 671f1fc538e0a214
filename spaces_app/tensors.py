"""The tensor work, and nothing else: what a ZeroGPU Space borrows its GPU for. Elsewhere it runs where it is."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import spaces
except ImportError:  # not on a Space, or not wanted there
    spaces = None

import gradio as gr
import places

import hf_merge3h

#: Whether tensor work runs in a process that is forked for a GPU: what it gets is sent, so it gets recipes, not plans.
LENT = spaces is not None and os.environ.get("SPACES_ZERO_GPU") is not None
_SLOWEST = 300  # seconds that a GPU is borrowed for at most


class CancelledError(Exception):
    """The visitor asked the merge to stop; nothing of it is left."""


def gpu(duration: Callable[..., int]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`spaces.GPU` where there is one, else nothing."""
    return spaces.GPU(duration=duration) if spaces is not None else lambda function: function


class Teller:
    """Tells the page how far a merge is, and stops it where a file asks for that. Can be sent to a worker process.

    Args:
        stop: the file.
        what: what is being done.
    """

    def __init__(self, stop: Path, what: str = "Merging") -> None:
        self.stop, self.what = stop, what

    def __call__(self, progress: Any) -> None:
        """Called by the engine after each tensor.

        Raises:
            CancelledError: the file is there.
        """
        left = f", {progress.left:.0f} s left" if math.isfinite(progress.left) and progress.seconds > 1 else ""
        self.tell(progress.done / max(1, progress.total), f"{self.what}{left}")

    def tell(self, share: float, text: str) -> None:
        """Show a share of one, and a text.

        Raises:
            CancelledError: the file is there, or its folder is gone with its visit.
        """
        if self.stop.exists() or not self.stop.parent.is_dir():
            raise CancelledError
        self.say(share, text)

    def say(self, share: float, text: str) -> None:
        """Show it."""
        gr.Progress()(min(1.0, share), desc=text)


def _seconds(recipe: Any, out: str, teller: Teller, seconds: float) -> int:
    return int(min(_SLOWEST, max(20, 4 * seconds + 15)))


@gpu(duration=_seconds)
def merge(recipe: Any, out: str, teller: Teller, seconds: float) -> Any:
    """Merge a recipe whose models lie on this machine or the Hub into a folder.

    Args:
        recipe: its content, or the plan made of it.
        out: the folder; it appears whole or not at all.
        teller: hears of the progress.
        seconds: how long the plan expects it to take.
    """
    with places.BUILDING:
        return hf_merge3h.merge_recipe(recipe, out, progress=teller, token=False)
