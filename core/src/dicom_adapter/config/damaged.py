"""Find the ledger of a configuration file that cannot be parsed, for example because of one missing quote."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dicom_adapter.config.load import ledger_url_of, tables_of

TABLE_HEADER = re.compile(r"\s*\[\s*([\w.-]+)\s*\]\s*(#.*)?")
UNKNOWN = "?"  # the table of lines below a header that cannot be read
WANTED = frozenset({"storage.path", "ledger.url"})


def readable_ledger_url(text: str, *, folder: Path) -> str | None:
    """Return the URL of the ledger, from those lines of the text that can be parsed alone.

    Return None if these lines do not name the data folder, or contradict each other.
    """
    found: dict[str, Any] = {}
    for name, value in _readable_values(text):
        if name in WANTED and found.setdefault(name, value) != value:
            return None
    if "storage.path" not in found:
        return None
    ledger = {"url": found["ledger.url"]} if "ledger.url" in found else {}
    return ledger_url_of({"storage": {"path": found["storage.path"]}, "ledger": ledger}, folder=folder)


def _readable_values(text: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each line that is TOML."""
    table = ""
    for line in text.splitlines():
        if line.lstrip().startswith("["):
            header = TABLE_HEADER.fullmatch(line)
            table = header[1] if header else UNKNOWN
        else:
            yield from _flat(tables_of(line), table)


def _flat(values: Mapping[str, Any], table: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{table}.{key}" if table else key
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield name, value
