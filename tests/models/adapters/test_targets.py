"""What a LoraConfig is told to target is what PEFT takes, for names that are easily confused."""

from __future__ import annotations

import pytest
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from hf_merge3h.models.adapters.targets import rank_pattern, target_modules

NAMES = [
    *("", "encoder", "encoder.layers", "encoder.layers.1", "encoder.layers.1.q", "encoder.layers.11.q"),
    *("encoder.layers.1.kq", "layers.1.q", "layers.1.q.q", "layersX1.q", "head", "lm_head"),
    *(f"decoder.layers.{at}.{each}" for at in range(30) for each in "qv"),
]


@pytest.mark.parametrize(
    "wanted",
    [
        {"encoder.layers.1.q"},
        {"layers.1.q"},  # also the ending of another name
        {"layers.1.q", "head"},
        {"lm_head", "head"},
        {name for name in NAMES if name.endswith(".v")},
        {name for name in NAMES if name.startswith("decoder")},
        {name for name in NAMES if name.endswith(".v")} - {"decoder.layers.3.v"},
    ],
)
def test_targets_are_exact(wanted: set[str]) -> None:
    config = LoraConfig(target_modules=target_modules(sorted(wanted), NAMES))
    assert {name for name in NAMES if name and check_target_module_exists(config, name)} == wanted


def test_last_names_where_they_are_enough() -> None:
    wanted = [name for name in NAMES if name.startswith("decoder") and name.endswith("v")]
    assert target_modules(wanted, NAMES) == ["v"]


def test_rank_pattern_is_exact() -> None:
    ranks = {name: (1 if name == "layers.1.q" else 2 if "1" in name else 4) for name in NAMES if name}
    pattern = rank_pattern(ranks, 4)
    assert len(pattern) == 2
    for name, rank in ranks.items():
        assert pattern.get(get_pattern_key(list(pattern), name), 4) == rank
