"""What the documents show is what the library takes."""

from __future__ import annotations

import ast
import inspect
import re

import pytest

import hf_merge3h
from hf_merge3h import integrations
from hf_merge3h.registry import get_method

from .markdown import ROOT, blocks, documents

PYTHON = [block for name in documents() for block in blocks(name) if block.language == "python"]
DOORS = {"peft_model": integrations.merge_into_adapter, "model": integrations.merge_into_model}


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.label)
def test_calls_fit_their_signatures(block):
    for call in (node for node in ast.walk(ast.parse(block.code)) if isinstance(node, ast.Call)):
        called = ast.unparse(call.func)
        if called == "hf_merge3h.merge":
            door = hf_merge3h.merge
        elif called.endswith(".merge_3h"):
            door = DOORS[called.removesuffix(".merge_3h")]
        else:
            continue
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        known = inspect.signature(door).parameters
        extra = {name: ast.literal_eval(value) for name, value in named.items() if name not in known}
        get_method(ast.literal_eval(named["method"]) if "method" in named else "r_tsvm").bind(extra)


@pytest.mark.parametrize("block", [block for block in PYTHON if block.mark == "tested"], ids=lambda block: block.label)
def test_an_example_runs_as_it_stands(block, capsys):
    block.run()
    assert "MergeReport" in capsys.readouterr().out


@pytest.mark.parametrize("name", documents())
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def test_calls_of_the_migration_table_name_what_exists():
    text = (ROOT / "docs" / "PEFT_MIGRATION.md").read_text(encoding="utf-8")
    calls = re.findall(r'`method="(\w+)"((?:, \w+=[\w.]+)*)`', text)
    assert {"task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs"} <= {name for name, _ in calls}
    door = inspect.signature(integrations.merge_into_adapter).parameters
    for name, arguments in calls:
        known = {parameter.name for parameter in get_method(name).parameters} | set(door)
        assert set(re.findall(r"(\w+)=", arguments)) <= known


def test_every_combination_type_of_peft_is_in_the_migration_table():
    peft = pytest.importorskip("peft")
    source = inspect.signature(peft.tuners.lora.LoraModel.add_weighted_adapter).parameters["combination_type"]
    kinds = set(re.findall(r"[\"'](\w+)[\"']", str(source.annotation)))
    text = (ROOT / "docs" / "PEFT_MIGRATION.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    assert len(kinds) == 11
    assert kinds == shown - {"combination_type"}
