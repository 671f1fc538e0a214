"""What `pip install .` gives: built from the tree, installed elsewhere, used from another folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import hf_merge3h

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "peft", "numpy", "huggingface_hub", "matplotlib", "rich")


def python(code: str, cwd: Path, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the tree: a build leaves files behind."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(ROOT / "hf_merge3h", tree / "hf_merge3h", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-index", "-q", "-w", str(tree / "dist"), str(tree)], check=True, capture_output=True)
    (built,) = (tree / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder into which the wheel was installed, by itself."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index", "-q"]
    subprocess.run([*pip, "--target", str(folder), str(wheel)], check=True, capture_output=True)
    return folder


def test_the_wheel_holds_every_file_of_the_package(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "hf_merge3h").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= held, sorted(wanted - held)
    assert not [name for name in held if name.startswith(("tests/", "benchmarks/"))]
    assert [name for name in held if name.endswith("licenses/LICENSE")]


def test_the_wheel_is_used_from_another_folder(installed, tmp_path):
    code = """if True:
        import json, sys
        sys.path.insert(0, sys.argv[1])
        import torch
        import hf_merge3h
        from hf_merge3h.demo import expert_paths
        deltas = torch.stack([torch.ones(4, 3), 3 * torch.ones(4, 3)])
        merged = hf_merge3h.get_method("task_arithmetic")(deltas, weights=[0.5, 0.5])
        print(json.dumps({
            "home": hf_merge3h.__file__,
            "methods": [method.name for method in hf_merge3h.list_methods()],
            "merged": merged.unique().tolist(),
            "experts": {role: sorted(p.name for p in path.iterdir()) for role, path in expert_paths().items()},
        }))"""
    told = json.loads(python(code, tmp_path, str(installed)))
    assert Path(told["home"]).is_relative_to(installed)
    assert told["methods"] == [method.name for method in hf_merge3h.list_methods()]
    assert told["merged"] == [2.0]
    assert set(told["experts"]) == {"helpfulness", "honesty", "harmlessness"}
    for files in told["experts"].values():
        assert {"adapter_config.json", "adapter_model.safetensors"} <= set(files)


def test_the_console_script_is_installed(installed, tmp_path):
    script = installed / "bin" / "hf-merge3h"
    assert script.is_file()
    code = """if True:
        import runpy, sys
        sys.path.insert(0, sys.argv[1])
        sys.argv = sys.argv[2:]
        runpy.run_path(sys.argv[0], run_name="__main__")"""
    told = python(code, tmp_path, str(installed), str(script), "--version")
    assert told == f"hf-merge3h {hf_merge3h.__version__}\n"


@pytest.mark.parametrize("module", ["hf_merge3h", "hf_merge3h.cli", "hf_merge3h.demo", "hf_merge3h.registry"])
def test_imports_are_light(module, tmp_path):
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[2]); __import__(sys.argv[1]); print(json.dumps([*sys.modules]))"
    )
    loaded = json.loads(python(code, tmp_path, module, str(ROOT)))
    assert module in loaded
    assert not set(HEAVY) & set(loaded)


def test_the_version_is_told_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == hf_merge3h.__version__


def test_torch_is_pinned_before_all_else():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins[0] == "torch==2.13.0"
    assert all("==" in pin for pin in pins)
