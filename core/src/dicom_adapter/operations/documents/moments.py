"""Times in JSON."""

from __future__ import annotations

from datetime import datetime


def iso(moment: datetime | None) -> str | None:
    """Return a time for JSON: UTC, ISO 8601."""
    return None if moment is None else moment.isoformat(timespec="milliseconds")
