"""The command line, in this process; once in another, as a user has it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hf_merge3h
from hf_merge3h import cli, registry

NAMES = [method.name for method in registry.list_methods()]


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    shown = capsys.readouterr()
    return ended.value.code or 0, shown.out, shown.err


def test_version(capsys):
    code, out, _ = run(capsys, "--version")
    assert (code, out) == (0, f"hf-merge3h {hf_merge3h.__version__}\n")


def test_help_lists_the_commands(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "methods" in out


def test_methods_lists_each_on_one_line(capsys):
    code, out, _ = run(capsys, "methods")
    head, *lines = out.splitlines()
    assert code == 0
    assert head.split() == ["name", "aliases", "title", "family", "space", "paper"]
    assert [line.split()[0] for line in lines] == [*NAMES, "passthrough"]
    assert "Passthrough (recipes only)" in lines[-1]


def test_methods_tell_what_passthrough_is_for(capsys):
    code, out, _ = run(capsys, "methods", "passthrough")
    assert code == 0
    for part in ("for stacks of layers", "merge_method: passthrough", "  scale = 1.0: a finite number", "exactly 1"):
        assert part in out
    assert json.loads(run(capsys, "methods", "passthrough", "--json")[1])["parameters"][0]["name"] == "scale"


def test_methods_as_json(capsys):
    code, out, _ = run(capsys, "methods", "--json")
    assert code == 0
    assert [entry["name"] for entry in json.loads(out)] == [*NAMES, "passthrough"]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_shown_whole(capsys, name):
    record = registry.get_method(name)
    code, out, _ = run(capsys, "methods", name)
    assert code == 0
    for alias in record.aliases:
        assert alias in out.splitlines()[0]
    for parameter in record.parameters:
        assert f"{parameter.name} = {parameter.default}: {parameter.expected}" in out
    for fact in (record.title, record.summary, record.space, record.paper, record.reconstruction, *record.laws):
        assert fact in out
    for law, reason in record.exempt.items():
        assert law in out
        assert reason in out

    code, out, _ = run(capsys, "methods", name, "--json")
    entry = json.loads(out)
    assert code == 0
    assert [each["name"] for each in entry["parameters"]] == [each.name for each in record.parameters]


def test_an_alias_is_a_name(capsys):
    assert run(capsys, "methods", "resm") == run(capsys, "methods", "r_tsvm")


def test_an_unknown_method_is_one_line_with_the_nearest_names(capsys):
    code, out, err = run(capsys, "methods", "r_tsv")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("error: method='r_tsv'")
    assert "'r_tsvm'" in err


def test_in_another_process():
    command = [sys.executable, "-m", "hf_merge3h.cli", "methods", "no such method"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    from tests.engine.recipes import family

    folder = tmp_path_factory.mktemp("cli")
    family(folder)
    content = {
        "merge_method": "ties",
        "base_model": str(folder / "base"),
        "models": [{"model": str(folder / name), "parameters": {"weight": 1.0}} for name in ("e1", "e2", "e3")],
        "parameters": {"density": 0.5},
        "dtype": "float32",
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(content))
    return path


def test_merge_makes_a_model(capsys, recipe, tmp_path):
    from transformers import AutoModelForCausalLM

    code, out, err = run(capsys, "merge", str(recipe), str(tmp_path / "out"), "--device", "cpu", "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content == json.loads((tmp_path / "out" / "merge3h.json").read_text())
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    capsys.readouterr()
    code, out, err = run(capsys, "merge", str(recipe), str(tmp_path / "out"))
    assert (code, out) == (2, "")
    assert err.startswith("error: out=")
    arguments = ("--overwrite", "--quiet", "--max-shard-size", "2KB", "--no-diagnostics", "--dtype", "bfloat16")
    code, out, _ = run(capsys, "merge", str(recipe), str(tmp_path / "out"), *arguments)
    assert (code, out) == (0, "")
    content = json.loads((tmp_path / "out" / "merge3h.json").read_text())
    assert content["output"]["dtypes"] == ["bfloat16"]
    assert content["diagnostics"] == "not recorded"


def test_quiet_hides_the_bars_of_downloads_too(capsys, recipe, tmp_path):
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    try:
        assert run(capsys, "merge", str(recipe), str(tmp_path / "out"), "--quiet") == (0, "", "")
        assert are_progress_bars_disabled()
    finally:
        enable_progress_bars()


def test_plan_tells_and_writes_nothing(capsys, recipe):
    before = sorted(recipe.parent.iterdir())
    code, out, _ = run(capsys, "plan", str(recipe))
    assert code == 0
    assert "reads 75.5 kB, writes about 18.9 kB" in out
    code, out, _ = run(capsys, "plan", str(recipe), "--json")
    assert json.loads(out)["tensors"] == 20
    assert sorted(recipe.parent.iterdir()) == before
    code, out, err = run(capsys, "plan", str(recipe.parent / "none.yaml"))
    assert (code, out) == (2, "")
    assert "none.yaml" in err


@pytest.mark.parametrize("method", ["r_tsvm", "ties", "model_stock"])
def test_init_writes_a_recipe_that_merges(capsys, recipe, tmp_path, method):
    folder = recipe.parent
    models = [str(folder / name) for name in ("e1", "e2", "e3")]
    code, out, err = run(capsys, "init", *models, "--base", str(folder / "base"), "--method", method)
    assert (code, err) == (0, "")
    assert f"merge_method: {method}\n" in out
    (tmp_path / "first.yaml").write_text(out)
    code, _, err = run(capsys, "merge", str(tmp_path / "first.yaml"), str(tmp_path / "out"), "--quiet")
    assert (code, err) == (0, "")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    code, out, err = run(capsys, "init", *models, "--method", method)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: base is not given: {method} needs the model that the experts were trained from")
    assert "--base" in err


def test_warnings_are_told_before_the_merge_and_not_when_quiet(capsys, recipe, tmp_path):
    idle = tmp_path / "idle.yaml"
    idle.write_text(json.dumps({**json.loads(recipe.read_text()), "parameters": {"density": 0.5, "t": 1}}))
    for options, told in (((), 1), (("--json",), 1), (("--quiet",), 0)):
        code, out, err = run(capsys, "merge", str(idle), str(tmp_path / "out"), "--overwrite", *options)
        assert (code, err.count("warning: idle.yaml:1: parameters.t has no effect"), err.count("\n")) == (0, told, told)
        assert "warning:" not in out
        assert out or "--quiet" in options


def test_a_merge_that_fails_while_writing_has_status_1(capsys, recipe, tmp_path, monkeypatch):
    from hf_merge3h.models.weights import writer

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "write_index", full)
    code, out, err = run(capsys, "merge", str(recipe), str(tmp_path / "out"), "--max-shard-size", "2KB")
    assert (code, out) == (1, "")
    assert "No space left" in err
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_replaced_by_a_flag(capsys, recipe, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    code, out, err = run(capsys, "merge", str(recipe), str(tmp_path))
    assert (code, out) == (2, "")
    assert err.endswith("expected a folder that does not exist; give another one; or pass --overwrite\n")


def test_what_is_wrong_with_the_output_is_told_before_a_model_is_opened(capsys, tmp_path, monkeypatch):
    made = {"merge_method": "linear", "models": [{"model": "no/such", "parameters": {"weight": 1}}]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(made))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    monkeypatch.setattr("hf_merge3h.engine.recipes.plan_recipe", lambda *_, **__: pytest.fail("planned"))
    code, _, err = run(capsys, "merge", str(tmp_path / "recipe.yaml"), str(tmp_path / "out"))
    assert (code, "expected a folder that does not exist" in err) == (2, True)
    with pytest.raises(hf_merge3h.RequestError, match="a folder that does not exist"):
        hf_merge3h.merge_recipe(made, tmp_path / "out")
    with pytest.raises(hf_merge3h.RequestError, match="max_shard_size='none'"):
        hf_merge3h.merge_recipe(made, tmp_path / "new", max_shard_size="none")


ENDING = """
import atexit, sys
from huggingface_hub.utils import tqdm
from hf_merge3h import cli
class Kept:
    def __del__(self): print("taken apart")
sys.kept = Kept()
atexit.register(print, "at exit")
tqdm(disable=True)  # its clock is a thread; every merge starts it
sys.argv[0] = "hf-merge3h"
cli.main()
"""


@pytest.mark.parametrize(("arguments", "status"), [(["--version"], 0), (["methods", "no_such_method"], 2)])
def test_a_process_of_its_own_ends_quickly_and_properly(arguments: list[str], status: int) -> None:
    """What atexit was told is done, and what was printed arrives; only modules are not taken apart any more."""
    ran = subprocess.run([sys.executable, "-c", ENDING, *arguments], capture_output=True, text=True)
    assert ran.returncode == status
    assert ran.stdout.splitlines()[-1] == "at exit"
    assert (len(ran.stdout.splitlines()), len(ran.stderr.splitlines())) == ((2, 0) if status == 0 else (1, 1))


def test_a_python_without_the_private_function_ends_as_usual() -> None:
    code = f"import atexit; del atexit._run_exitfuncs\n{ENDING}"
    ran = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True)
    assert "at exit" in ran.stdout.splitlines()
    assert ran.stderr == ""


def test_a_profiled_process_ends_as_usual(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cProfile", "-o", str(tmp_path / "profile"), "-m", "hf_merge3h.cli", "--version"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert (tmp_path / "profile").stat().st_size


def test_other_threads_are_waited_for() -> None:
    code = """
import threading
from hf_merge3h import cli
threading.Thread(target=lambda: (threading.main_thread().join(), print("done"))).start()
cli.main()
"""
    ran = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "done"


MERGING = """
import time
from hf_merge3h import cli
from hf_merge3h.engine import workers
def wait(crew):
    print("merging", flush=True)
    time.sleep(60)
    yield
workers.Crew.__iter__ = wait
cli.main()
"""


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("", [signal.SIGTERM]),
        ("", [signal.SIGHUP]),
        ("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)", [signal.SIGHUP, signal.SIGTERM]),  # nohup
    ],
)
def test_a_merge_that_is_told_to_end_leaves_nothing_half_made(recipe, tmp_path, before, told):
    command = [sys.executable, "-c", before + MERGING, "merge", str(recipe), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "merging\n"
        assert [path.name.startswith(".out") for path in tmp_path.iterdir()] == [True]
        for number in told:
            process.send_signal(number)
        assert process.wait(30) == 128 + told[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_output_that_cannot_be_written_is_one_error():
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "hf_merge3h.cli", "methods"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (ended.returncode, ended.stderr) == (1, "error: No space left on device\n")
