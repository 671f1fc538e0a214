"""Shapes written in annotations are checked while tests run (never in users' programs)."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings
from jaxtyping import install_import_hook

# Before anything imports the package: only modules that are loaded later are checked.
install_import_hook(["hf_merge3h.linalg", "hf_merge3h.methods"], "beartype.beartype")

settings.register_profile("suite", derandomize=True, deadline=None, max_examples=12)
settings.load_profile("suite")
