"""Shapes written in annotations are checked while tests run (never in users' programs)."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Before anything imports the package: only modules that are loaded later are checked.
install_import_hook(["hf_merge3h.linalg", "hf_merge3h.methods"], "beartype.beartype")

settings.register_profile("suite", derandomize=True, deadline=None, max_examples=12)
settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    """The tests of the served Space come first: they wait for a browser, take longest, and one worker does a file."""
    served = {"site", "chromium"}
    items.sort(key=lambda item: served.isdisjoint(getattr(item, "fixturenames", ())))


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    """Cards are written by nearly every merge; drawing their pictures is left to the tests that look at them."""
    if "pictures" not in request.keywords:
        from hf_merge3h.publishing import picture

        monkeypatch.setattr(picture, "draw_pair", lambda *_: None)
