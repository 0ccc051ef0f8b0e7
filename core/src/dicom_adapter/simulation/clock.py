"""A clock whose time changes only when a test sets it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

BEGINNING = datetime(2026, 1, 5, 8, 0, 0, tzinfo=timezone.utc)  # a Monday morning


class VirtualClock:
    """A clock that returns the time to which it was set."""

    def __init__(self, now: datetime = BEGINNING) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def system_time(self) -> datetime:
        return self._now

    def move_to(self, when: datetime) -> None:
        """Set the time."""
        self._now = when

    def advance(self, seconds: float) -> None:
        """Advance the time by `seconds`."""
        self._now += timedelta(seconds=seconds)
