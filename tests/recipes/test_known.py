"""What is known of the methods without importing them is what the registry says, and serves recipes without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hf_merge3h.recipes import known
from hf_merge3h.registry import get_method, list_methods

WRONG = {
    "no YAML": "a: [1\n",
    "an unknown key": "merge_method: ties\nbase_model: b\nmodels: [x, y]\nmodls: 3\n",
    "an unknown method": "merge_method: tie\nmodels: [x]\n",
    "an unknown parameter": "merge_method: consensus_ta\nbase_model: b\nmodels: [x, y]\nparameters: {mask_lamda: 1}\n",
    "a parameter beside its place": "merge_method: r_tsvm\nbase_model: b\nmodels: [x, y]\nspectral_embeddings: true\n",
    "too few models": "merge_method: slerp\nbase_model: b\nmodels: [x, y]\nparameters: {t: 0.5}\n",
    "no base": "merge_method: resm\nmodels: [x, y]\n",
    "an unknown template": "merge_method: linear\nmodels: [x, y]\nchat_template: nope\n",
}

SCRIPT = """
import json, sys
from hf_merge3h import cli
told = {}
for arguments in json.loads(sys.argv[1]):
    try:
        cli.main(arguments)
    except SystemExit as ended:
        told[arguments[1]] = (ended.code, "torch" in sys.modules)
print(json.dumps(told))
"""


def test_the_shipped_file_is_up_to_date():
    assert known.KNOWN.read_text(encoding="utf-8") == known.known_text(), "run: make docs"


@pytest.mark.parametrize("record", known._known(), ids=lambda each: each.name)
def test_it_says_what_the_registry_says(record):
    method = get_method(record.name)
    facts = ("name", "aliases", "shown_title", "family", "summary", "parameters", "experts", "space", "weighted")
    facts = (*facts, "unit_weights", "weight_form", "matrix_only", "random")
    assert [getattr(record, name) for name in facts] == [getattr(method, name) for name in facts]


def test_a_function_that_is_elsewhere_is_fetched():
    import torch

    record = next(each for each in known._known() if each.name == "task_arithmetic")
    vectors, weights = torch.ones(2, 1, 3), torch.ones(2)
    assert torch.equal(record.function(vectors, weights), get_method("task_arithmetic").function(vectors, weights))
    assert [each.name for each in known.records()] == [each.name for each in list_methods()]


def test_errors_in_recipes_are_told_before_torch_is_imported(tmp_path):
    commands = []
    for name, text in WRONG.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        commands += [["plan", str(path)]]
    commands += [["merge", str(tmp_path / "none.yaml"), "out"], ["init", "a", "b", "--base", "c"]]
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    *_, last = ran.stdout.splitlines()
    told = json.loads(last)
    assert told.pop("a") == [0, False]
    assert list(told.values()) == [[2, False]] * (len(WRONG) + 1)
    lines = ran.stderr.splitlines()
    for name in WRONG:
        assert any(f"{name}.yaml:" in line for line in lines)
