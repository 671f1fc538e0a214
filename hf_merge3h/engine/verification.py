"""What `verify` found, and how it is told."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from .differences import TensorDifference

Outcome = Literal["bit-exact", "within tolerance", "hashes match", "differs", "could not check"]

_SHOWN = 10  # tensors and findings that the text names


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        outcome: in a word.
        findings: what is not as the manifest says; each names the file, parent or setting.
        differences: tensors that merging again does not give bit by bit.
        files: how many files matched their hashes.
        tensors: how many tensors were compared.
        notes: what was not checked, and why.
    """

    outcome: Outcome
    findings: tuple[str, ...] = ()
    differences: tuple[TensorDifference, ...] = ()
    files: int = 0
    tensors: int = 0
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: it is what it says, as far as could be checked; 1: it is not; 2: nothing could be checked."""
        return {"differs": 1, "could not check": 2}.get(self.outcome, 0)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "exit_code": self.exit_code}

    def __str__(self) -> str:
        again = f"{self.tensors} tensors were merged again" if self.tensors else "nothing was merged again"
        lines = [f"{self.outcome}: {self.files} files match their hashes, {again}"]
        lines += [f"  - {each}" for each in self.findings[:_SHOWN]]
        worst = sorted(self.differences, key=lambda each: (not each.reason, -each.relative))
        lines += [f"  - {each}" for each in worst[:_SHOWN]]
        hidden = max(0, len(self.findings) - _SHOWN) + max(0, len(worst) - _SHOWN)
        if hidden:
            lines.append(f"  ... and {hidden} more")
        return "\n".join([*lines, *(f"note: {each}" for each in self.notes)])
