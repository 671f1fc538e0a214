"""What a model card says, whatever its README holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_merge3h.models.cards import read_card

NOTHING = {**dict.fromkeys(("license", "license_name", "license_link", "pipeline_tag")), "language": [], "tags": []}


def card(folder: Path, text: str | bytes) -> dict | None:
    (folder / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_card(folder)


def test_what_a_card_says(tmp_path: Path) -> None:
    text = (
        "---\nlicense: other\nlicense_name: llama3\nlicense_link: https://a.b/c\nlanguage:\n- en\n- no\n"
        "tags: [merge, x]\npipeline_tag: text-generation\ndatasets: [{a: 1}]\n---\n# Title\nlicense: mit\n"
    )
    assert card(tmp_path, text) == {
        "license": "other", "license_name": "llama3", "license_link": "https://a.b/c",
        "pipeline_tag": "text-generation", "language": ["en", "no"], "tags": ["merge", "x"],
    }  # fmt: skip
    assert card(tmp_path, "\ufeff---\r\nlicense: [mit, apache-2.0]\r\nlanguage: no\r\n---\r\n") == {
        **NOTHING, "license": ["mit", "apache-2.0"], "language": ["no"],
    }  # fmt: skip
    assert card(tmp_path, "---\nlicense:\ntags: ~\n---\n") == NOTHING


@pytest.mark.parametrize(
    "text",
    [
        "", "# A model", "---\nlicense: mit\n", "---\n[1, 2]\n---\n", "---\na: b: c\n---\n", b"\xff\xfe---",
        "---\n" + "[" * 50_000 + "\n---\n", "---\n&a [*a]\n---\n", "---\n{[a]: b}: c\n---\n", b"---\n\x00: 1\n---\n",
        b"---\n" + b"a" * 3_000_000,
    ],
)  # fmt: skip
def test_what_says_nothing(tmp_path: Path, text: str | bytes) -> None:
    assert card(tmp_path, text) is None


def test_hostile_values(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
    assert card(tmp_path, f"---\n{bomb}license: mit\ntags: *a39\n---\n") == {**NOTHING, "license": "mit"}
    found = card(tmp_path, f"---\nlicense: !!python/object:os.system x\ntags: [{{a: b}}, 1, {'y' * 900}]\n---\n")
    assert found == {**NOTHING, "license": "x", "tags": ["1", "y" * 300]}
    assert card(tmp_path, '---\nlicense: "a\\nb\\u202e\\x1b[31m"\nlanguage: [[en]]\n---\n') == {
        **NOTHING, "license": "a b  [31m",
    }  # fmt: skip
    many = card(tmp_path, f"---\ntags: [{', '.join('t' * 5_000)}]\n---\n")
    assert many is not None
    assert len(many["tags"]) == 100


def test_no_file(tmp_path: Path) -> None:
    assert read_card(tmp_path) is None
    (tmp_path / "README.md").mkdir()
    assert read_card(tmp_path) is None
