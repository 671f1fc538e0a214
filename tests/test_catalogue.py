"""README.md and docs/METHODS.md say what the registry says: `make docs` writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_merge3h import catalogue
from hf_merge3h.registry import list_methods

ROOT = Path(__file__).resolve().parent.parent


def test_the_table_in_the_readme_is_the_registry():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == catalogue.with_table(text, list_methods()), "README.md is out of date: make docs"


def test_the_page_of_methods_is_the_registry():
    text = (ROOT / "docs" / "METHODS.md").read_text(encoding="utf-8")
    assert text == catalogue.markdown_page(list_methods()), "docs/METHODS.md is out of date: make docs"


@pytest.mark.parametrize("method", list_methods(), ids=lambda method: method.name)
def test_a_record_is_complete(method):
    assert method.summary.endswith(".")
    assert catalogue.paper_url(method.paper), f"paper={method.paper!r}: no link can be made of it"
    for parameter in method.parameters:
        assert parameter.help, f"{method.name}.{parameter.name} is not described under Args:"
    assert all(reason.strip() for reason in method.exempt.values())


def test_what_is_reconstructed_is_called_so_everywhere():
    (method,) = [method for method in list_methods() if method.reconstruction]
    assert method.name == "r_tsvm"
    assert method.shown_title == "R-TSVM (RESM) (reconstruction)"
    assert "2502.06876" in method.paper
    for text in (
        method.description,
        catalogue.markdown_table([method]),
        catalogue.markdown_page([method]),
        catalogue.text_page(method),
        catalogue.text_table([method]),
        catalogue.facts(method)["shown_title"],
    ):
        assert "reconstruction" in text.lower()
        assert text.count(method.title) == text.count(method.shown_title)


@pytest.mark.parametrize(
    "method", [each for each in list_methods() if not each.reconstruction], ids=lambda each: each.name
)
def test_other_titles_are_shown_as_they_are(method):
    assert method.shown_title == method.title


def test_markers_that_are_missing_are_an_error():
    with pytest.raises(ValueError, match=r"README\.md: expected the lines"):
        catalogue.with_table("no markers here", list_methods())
