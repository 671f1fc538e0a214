"""Code blocks of Markdown files, so that tests can run what the documents show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[\w -]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the mark in the comment line above it, and where it starts."""

    path: Path
    line: int
    language: str
    mark: str
    code: str

    @property
    def label(self) -> str:
        return f"{self.path.name}:{self.line}"

    def run(self, **names: object) -> dict[str, object]:
        """Execute it, with line numbers that point into the document; returns what it defines, and `names`."""
        namespace: dict[str, object] = {"__name__": f"block_of_{self.path.stem}", **names}
        padded = "\n" * self.line + self.code
        exec(compile(padded, str(self.path), "exec", dont_inherit=True), namespace)
        return namespace


def blocks(name: str) -> list[Block]:
    """All fenced blocks of a document, by its path from the root."""
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    return [
        Block(path, text.count("\n", 0, found.start("code")), found["language"], found["mark"] or "", found["code"])
        for found in _BLOCK.finditer(text)
    ]


def documents() -> list[str]:
    """README, CONTRIBUTING, CHANGELOG and all of docs/, by their paths from the root."""
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)
