"""`hf-merge3h card` and `licenses` on local folders."""

import json

import pytest
from typer.testing import CliRunner

from hf_merge3h.cli import app, main
from hf_merge3h.manifest import Manifest
from tests.publishing.manifests import content, model


def _run(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def _fails(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(each) for each in arguments])
    return caught.value.code, capsys.readouterr().err


@pytest.fixture
def recipe(tmp_path):
    """A recipe of local folders, of which nothing is there but their cards."""
    for name, licence in (("base", "apache-2.0"), ("e1", "mit"), ("e2", "apache-2.0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    path = tmp_path / "recipe.yaml"
    models = "".join(f"  - model: {tmp_path / name}\n" for name in ("e1", "e2"))
    path.write_text(f"merge_method: ties\nbase_model: {tmp_path / 'base'}\nmodels:\n{models}")
    return path


def test_licenses_of_a_recipe_need_no_weights(recipe):
    done = _run("licenses", recipe)
    assert done.exit_code == 0
    assert "compatible; suggested licence: apache-2.0" in done.output
    assert "not legal advice" in done.output


def test_licenses_that_conflict(recipe):
    (recipe.parent / "e1" / "README.md").write_text("---\nlicense: gpl-2.0\n---\n")
    done = _run("licenses", recipe, "--json")
    assert done.exit_code == 1
    found = json.loads(done.output)
    assert (found["status"], found["license"]) == ("conflict", None)
    assert {clause[0] for clause in found["conflicts"][0]["clauses"]} == {"gpl-2.0", "apache-2.0"}
    assert "a person has to decide" in _run("licenses", recipe).output


def test_licenses_that_nobody_states(recipe):
    (recipe.parent / "e1" / "README.md").unlink()
    done = _run("licenses", recipe)
    assert done.exit_code == 1
    assert "unknown" in done.output


def test_licenses_of_a_merge(tmp_path):
    Manifest(content(models=[model("base"), model("honesty")])).save(tmp_path)
    assert _run("licenses", tmp_path).exit_code == 0


def test_card(tmp_path):
    Manifest(content()).save(tmp_path)
    done = _run("card", tmp_path, "--print", "--no-picture")
    assert done.exit_code == 0
    assert "## Provenance" in done.output
    assert not (tmp_path / "README.md").exists()
    done = _run("card", tmp_path, "--name", "balanced", "--no-picture")
    assert done.output.strip() == str(tmp_path / "README.md")
    assert "# balanced" in (tmp_path / "README.md").read_text()


def test_refusals(tmp_path, capsys, recipe):
    assert _fails(capsys, "card", tmp_path / "none")[0] == 2
    code, said = _fails(capsys, "card", tmp_path)
    assert (code, "merge3h.json" in said) == (2, True)
    assert _fails(capsys, "licenses", tmp_path / "none.yaml")[0] == 2
