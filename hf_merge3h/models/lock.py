"""One thread at a time where a library changes torch for all threads while it works."""

from __future__ import annotations

import threading

#: Held while PEFT's `low_cpu_mem_usage` and transformers' loading put new modules on the meta device, or leave out
#: initialisation, by patching torch: two of them at once would undo each other's patches in the wrong order.
PATCHED_TORCH = threading.RLock()
