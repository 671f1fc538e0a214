"""One small suite and two small models for all tests of this folder."""

from __future__ import annotations

import pytest

from . import tiny


@pytest.fixture(scope="session")
def suite(tmp_path_factory):
    return tiny.suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return {name: tiny.folder(place / name, seed) for seed, name in enumerate(("base", "helpful", "merged"))}
