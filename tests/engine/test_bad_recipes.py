"""Bad recipes as a hurried user writes them: one error each, with file, line and value, and nothing written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hf_merge3h import cli
from tests.engine.models import ROLES, llama, three_adapters

TIES = "merge_method: ties\nbase_model: m/base\n"
LINEAR = "merge_method: linear\nmodels: [m/e1, m/e2]\n"
ADAPTERS = TIES + "adapters:\n  honesty: m/honesty\n  helpfulness: m/helpfulness\nout: adapter\n"
SLICE = "  - sources:\n      - model: m/e{}\n        layer_range: [0, {}]\n"
NUSLERP = "merge_method: nuslerp\nbase_model: m/base\nmodels: [m/e1, m/e2]\n"
WEIGHT = "  - model: m/e{}\n    parameters: {{weight: {}}}\n"

BAD = {
    "tabs": (TIES + "models:\n\t- m/e1\n", "r.yaml:4: no YAML that can be read"),
    "no models": (TIES + "models:\n", "r.yaml:3: models is empty"),
    "models by role": (TIES + "models:\n  honest: m/e1\n", "r.yaml:3: models={'honest': 'm/e1'}: expected a list"),
    "percent": (
        TIES + "models: [m/e1]\nparameters:\n  density: 50%\n",
        "r.yaml:5: parameters.density='50%': expected a number in (0, 1]",
    ),
    "a share for each model": (
        TIES + "models: [m/e1]\nparameters: {weight: {m/e1: 1}}\n",
        "r.yaml:4: parameters.weight={'m/e1': 1}: expected {filter: part of a name, value: ...}",
    ),
    "too many layers": (
        "merge_method: passthrough\nslices:\n" + SLICE.format(1, 2) + SLICE.format(2, 9),
        "r.yaml:8: slices[1].sources[0].layer_range=[0, 9]: expected numbers of at most 2",
    ),
    "all weights zero": (
        "merge_method: linear\nmodels:\n" + WEIGHT.format(1, 0) + WEIGHT.format(2, 0),
        "r.yaml:4: models[0].parameters.weight=0.0: that of every model is 0",
    ),
    "weights that cancel": (
        "merge_method: linear\nmodels:\n" + WEIGHT.format(1, 1) + WEIGHT.format(2, -1),
        "r.yaml:4: weights=[1.0, -1.0]: expected numbers whose sum is not zero; or set normalize: false",
    ),
    "rows of what is flattened": (
        NUSLERP + "parameters: {nuslerp_row_wise: true, weight: 1}\n",
        "r.yaml:4: parameters.nuslerp_row_wise=true: expected false where tensors are flattened; "
        "or set nuslerp_flatten: false",
    ),
    "no t": ("merge_method: slerp\nbase_model: m/base\nmodels: [m/e1]\n", "r.yaml:3: merge_method=slerp needs `t`"),
    "an adapter as a model": (TIES + "models:\n  - m/e1\n  - m/honesty\n", "r.yaml:5: m/honesty: is an adapter"),
    "a model as an adapter": (TIES + "models:\n  - m/base+m/e2\n", "r.yaml:4: models[0].model='m/e2': expected an a"),
    "a module too few": (
        "merge_method: linear\nmodules:\n  vision_tower:\n    models: [m/e1]\n",
        "r.yaml:2: m/e1: 20 tensors",
    ),
    "no tokenizer": (LINEAR + "tokenizer_source: union\n", "r.yaml:2: m/e1: has no tokenizer"),
    "an unknown template": (LINEAR + "chat_template: nope\n", "r.yaml:3: chat_template='nope': expected a Jinja"),
    "models for an adapter": (TIES + "models: [m/e1]\nout: adapter\n", "r.yaml:3: m/e1: expected one adapter"),
    "a gradient for an adapter": (
        ADAPTERS + "parameters: {density: [0.1, 0.9]}\n",
        "r.yaml:6: settings differ between",
    ),
    "a method of weights for an adapter": (
        ADAPTERS.replace("ties", "slerp") + "parameters: {t: 0.5}\n",
        "r.yaml:",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.engine.recipes import family

    folder = tmp_path_factory.mktemp("bad")
    family(folder / "m")
    three_adapters(llama()).save_pretrained(folder / "m", selected_adapters=list(ROLES))
    return folder


@pytest.mark.parametrize("name", BAD)
def test_one_clear_error(name: str, folder: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    text, said = BAD[name]
    monkeypatch.chdir(folder)
    (folder / "r.yaml").write_text(text)
    with pytest.raises(SystemExit) as ended:
        cli.main(["merge", "r.yaml", str(tmp_path / "out")])
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (2, "")
    assert shown.err.startswith("error: ")
    assert said in shown.err
    problems = re.findall(r"^  - (.*)$", shown.err, re.MULTILINE) or [shown.err.removeprefix("error: ")]
    assert all(re.match(r"r\.yaml:\d+: ", each) for each in problems)
    assert len(problems) <= 2
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_at_some_tensors_says_at_which(
    folder: Path, monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.chdir(folder)
    setting = "parameters:\n  density:\n    - {filter: mlp, value: 7}\n    - value: 0.5\n"
    (folder / "r.yaml").write_text(f"{TIES}models: [m/e1]\n{setting}")
    with pytest.raises(SystemExit):
        cli.main(["merge", "r.yaml", str(tmp_path / "out")])
    said = "r.yaml:6: parameters.density[0].value=7: expected a number in (0, 1] (at 6 tensors, model.layers.0.mlp."
    assert said in capsys.readouterr().err
