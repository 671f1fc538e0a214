"""`merge_3h` is there whichever library is imported first, and nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHECK = """
import transformers, peft
from transformers import PreTrainedModel
from peft import PeftModel
assert PreTrainedModel.merge_3h.__name__ == PeftModel.merge_3h.__name__ == "merge_3h"
assert PreTrainedModel.merge_3h is not PeftModel.merge_3h
print("fine")
"""
ORDERS = {
    "first": "import hf_merge3h\n" + CHECK,
    "last": "import transformers, peft\nfrom transformers import PreTrainedModel\nfrom peft import PeftModel\n"
    "import hf_merge3h\n" + CHECK,
    "between": "from transformers import PreTrainedModel\nimport hf_merge3h\n" + CHECK,
    "twice": "import hf_merge3h\nhf_merge3h.integrations.install()\nhf_merge3h.integrations.install()\n"
    "import sys\nassert sum('_AfterImport' in type(f).__name__ for f in sys.meta_path) == 1\n" + CHECK,
}


@pytest.mark.parametrize("order", ORDERS)
def test_any_order_of_imports(order: str) -> None:
    done = subprocess.run([sys.executable, "-c", ORDERS[order]], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("fine"), done.stderr


def test_every_public_name_can_be_had() -> None:
    import hf_merge3h

    for name in hf_merge3h.__all__:
        assert getattr(hf_merge3h, name) is not None
        assert name in dir(hf_merge3h)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hf_merge3h.nothing
