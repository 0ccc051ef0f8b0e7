"""The generated pages of the site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from manual import api, command_line, hooks


def generated_pages() -> Iterator[tuple[str, str]]:
    """Yield each page with its path below `docs/reference`."""
    yield "hooks/index.md", hooks.index()
    for name, hook in hooks.hooks().items():
        yield f"hooks/{name}.md", hooks.page(name, hook)
    yield "command-line.md", command_line.page()
    for name, module in api.PUBLIC.items():
        yield f"{name}.rst", api.page(module)


def write(folder: Path) -> None:
    """Write all pages, and delete those of removed hooks."""
    wanted = {folder / path: text for path, text in generated_pages()}
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in (folder / "hooks").glob("*.md"):
        if path not in wanted:
            path.unlink()
