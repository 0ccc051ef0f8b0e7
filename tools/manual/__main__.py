"""Update the generated tables of the documentation: `make reference`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from manual.admin_api import operations_updated
from manual.metrics import metrics_updated
from manual.tables import updated

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES: dict[str, Callable[[str], str]] = {
    "configuration.md": updated,
    "metrics.md": metrics_updated,
    "how-to/admin-api.md": operations_updated,
}

if __name__ == "__main__":
    for name, update in PAGES.items():
        page = DOCS / name
        before = page.read_text(encoding="utf-8")
        after = update(before)
        page.write_text(after, encoding="utf-8")
        sys.stdout.write(f"{name}: {'up to date' if before == after else 'written'}\n")
