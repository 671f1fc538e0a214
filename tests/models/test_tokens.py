"""Tokenizers that cannot be read: none at all, or a broken one."""

from __future__ import annotations

import pytest

from hf_merge3h.errors import SourceError
from hf_merge3h.models.tokens import read_tokens


def test_none_and_a_broken_one_are_told_apart(tmp_path):
    with pytest.raises(SourceError, match=r"^m: has no tokenizer, .*save one into"):
        read_tokens(tmp_path, "m")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(SourceError, match=r"^m: its tokenizer cannot be read, .*Expecting property name"):
        read_tokens(tmp_path, "m")
