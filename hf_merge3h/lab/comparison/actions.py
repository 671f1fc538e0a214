"""What steps do, by name; importing it loads what they need, so that a step's process begins warm."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import peft  # noqa: F401
import torch  # noqa: F401
import transformers  # noqa: F401
from transformers.generation import utils  # noqa: F401
from transformers.models.auto import modeling_auto, tokenization_auto  # noqa: F401

import hf_merge3h.evaluation.run
import hf_merge3h.integrations
import hf_merge3h.methods  # noqa: F401

from .measuring import measure, stage
from .sft import mix, questions, train
from .tuning import tune
from .work import Job

with contextlib.suppress(ImportError):  # the extra `train`; the step that needs it says so
    import trl  # noqa: F401

ACTIONS: Mapping[str, Callable[[Job], Mapping[str, Any] | None]] = {
    "questions": questions, "train": train, "stage": stage, "mix": mix, "measure": measure, "tune": tune,
}  # fmt: skip
