"""Manifests made by hand, with everything that a card can show."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from hf_merge3h.manifest import SCHEMA_VERSION, Manifest, load_manifest
from hf_merge3h.publishing.card import make_card

ROLES = ("helpfulness", "honesty", "harmlessness")
SHA = {role: f"{number}" * 40 for number, role in enumerate(("base", *ROLES), start=1)}


def card(licence: str | None = "apache-2.0", **more: Any) -> dict[str, Any]:
    empty = {"license_name": None, "license_link": None, "language": ["en"], "pipeline_tag": None, "tags": []}
    return {"license": licence, **empty, **more}


def model(role: str, **more: Any) -> dict[str, Any]:
    name = "small" if role == "base" else role
    return {
        "given": f"me/{name}", "role": role, "source": f"me/{name}", "commit": SHA[role], "base": role == "base",
        "adapters": [], "architecture": "LlamaForCausalLM", "hashes": {"model.safetensors": "a" * 64},
        "card": card(), **more,
    }  # fmt: skip


def block(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "tensors": 7, "numbers": 1000, "norms": [1.0, 2.0, 0.5], "merged_norm": 2.5,
        "cosines": [[1.0, 0.1, 0.2], [0.1, 1.0, None], [0.2, None, 1.0]], "merged_cosines": [0.5, 0.6, None],
        "sign_conflict": 0.25, "kept_rank": 12.0, "survived": 0.875, "residual": None, **more,
    }  # fmt: skip


def dataset(name: str = "GSM8K", **more: Any) -> dict[str, Any]:
    return {
        "dataset": name, "dataset_id": "openai/gsm8k", "dataset_revision": "0" * 40, "split": "test",
        "dimension": "helpfulness", "h": "helpfulness", "metric": "math_accuracy", "key": "accuracy",
        "direction": "higher", "n": 1319,
        "values": {
            "merged": {"value": 0.5, "low": 0.45, "high": 0.55, "n": 1319},
            "base": {"value": 0.25, "low": 0.2, "high": 0.3, "n": 1319},
            "helpfulness": {"value": 0.625, "low": 0.6, "high": 0.65, "n": 1319},
        },
        "paired": [
            {"against": "base", "difference": 0.25, "low": 0.2, "high": 0.3, "p": 0.0001, "p_holm": 0.0002,
             "distinguishable": True, "better": True},
            {"against": "helpfulness", "difference": -0.125, "low": -0.2, "high": -0.05, "p": 0.001, "p_holm": 0.002,
             "distinguishable": True, "better": False},
        ],
        **more,
    }  # fmt: skip


def evaluation(**more: Any) -> dict[str, Any]:
    return {
        "suite": "quick", "date": "2026-11-24", "versions": {"hf-merge3h": "0.1.0"}, "judge": None, "base": "base",
        "merged": "merged", "experts": {"helpfulness": "helpfulness"}, "datasets": [dataset()],
        "not_evaluated": [{"dataset": "TruthfulQA", "h": "honesty", "reason": "no judge was given"}],
        "summary": {}, **more,
    }  # fmt: skip


def content(**more: Any) -> dict[str, Any]:
    """A whole manifest; `more` replaces its keys."""
    made = {
        "schema_version": SCHEMA_VERSION, "kind": "weights", "made_by": "recipe",
        "method": {
            "name": "r_tsvm", "title": "R-TSVM (RESM)", "paper": "arXiv:2502.06876", "notice": "A reconstruction.",
        },
        "recipe": {
            "given": {
                "merge_method": "r_tsvm", "base_model": "me/small",
                "models": [{"model": f"me/{role}", "parameters": {"weight": 1.0}} for role in ROLES],
            },
            "label": "recipe.yaml",
            "resolved": [
                {"method": "r_tsvm", "inputs": [1, 2, 3], "roles": list(ROLES), "weights": [1.0, 0.5, 0.25], "base": 0,
                 "parameters": {"scale": 1.0, "rank_share": None}, "tensors": ["a", "b"]},
            ],
        },
        "warnings": ["something to know"], "seed": 0, "models": [model(role) for role in ("base", *ROLES)],
        "versions": {"hf-merge3h": "0.1.0", "torch": "2.13.0"}, "device": "cpu", "seconds": 1.5,
        "output": {
            "tensors": 2, "bytes": 2000, "dtypes": ["bfloat16"], "layers": 2,
            "hashes": {"model.safetensors": "b" * 64, "tokenizer.json": "c" * 64, "chat_template.jinja": "d" * 64},
        },
        "diagnostics": [
            {"roles": list(ROLES), "total": block("whole model"), "blocks": [block("model.layers.0"), block("norm")]},
        ],
    }  # fmt: skip
    return copy.deepcopy({**made, **more})


def again(folder: Path, **change: Any) -> None:
    """Save a folder's manifest with other content."""
    made = dict(load_manifest(folder).content)
    Manifest({**made, **change}).save(folder)


def card_of(made: dict[str, Any], **options: Any) -> str:
    """The card of a manifest's content."""
    return make_card(Manifest(made), **options)


def front_of(text: str) -> dict[str, Any]:
    """A card's metadata."""
    return dict(yaml.safe_load(text.split("---\n")[1]))
