"""A family of checkpoints that the tests of one file read and leave as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.recipes import family


@pytest.fixture(scope="module")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, list[Any]]:
    """Its folder, the base and the experts."""
    folder = tmp_path_factory.mktemp("family")
    return folder, *family(folder)
