"""Running untrusted programs, and believing only what reached a process that they cannot touch (docs/SANDBOX.md)."""

from .programs import Program, available, choose, describe, run_programs
from .supervisor import Outcome

__all__ = ["Outcome", "Program", "available", "choose", "describe", "run_programs"]
