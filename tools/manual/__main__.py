"""Update the tables of keys in docs/configuration.md: `make reference`."""

from __future__ import annotations

import sys
from pathlib import Path

from manual.tables import updated

CONFIGURATION = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"

if __name__ == "__main__":
    before = CONFIGURATION.read_text(encoding="utf-8")
    after = updated(before)
    CONFIGURATION.write_text(after, encoding="utf-8")
    sys.stdout.write(f"{CONFIGURATION.name}: {'up to date' if before == after else 'written'}\n")
