"""The pages of the documentation, their sections and code blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
GENERATED = DOCS / "reference"  # written when the site is built
HAND_WRITTEN_PAGES = sorted(page for page in DOCS.rglob("*.md") if GENERATED not in page.parents)
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *HAND_WRITTEN_PAGES]

BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@frozen
class Block:
    """A fenced block: its page, its info string (a language and optional words), its text."""

    page: Path
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.info}"


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(language: str, pages: Sequence[Path] = PAGES) -> list[Block]:
    """Return all fenced blocks of a language."""
    return [block for page in pages for block in blocks_of(page) if block.info.split()[:1] == [language]]


def blocks_of(page: Path) -> list[Block]:
    """Return all fenced blocks of a page, in order."""
    return [Block(page, info, text) for info, text in BLOCK.findall(read(page))]


def block(info: str, page: Path) -> Block:
    """Return the only block of a page with this info string."""
    [only_block] = [block for block in blocks_of(page) if block.info == info]
    return only_block


def section(page: Path, heading: str) -> str:
    """Return the text of a section, up to the next heading of any level."""
    parts = re.split(r"^(#+ .*)$", read(page), flags=re.MULTILINE)
    texts = [text for title, text in zip(parts[1::2], parts[2::2], strict=True) if title.lstrip("# ") == heading]
    assert 1 == len(texts), f"{page.name} has no section '{heading}'"
    return texts[0]
