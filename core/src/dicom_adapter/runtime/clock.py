"""The clock of a process. Everything that waits reads it, so that tests can replace it by a virtual clock."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Protocol


class Clock(Protocol):
    """A source of the time in UTC."""

    def now(self) -> datetime: ...


class SystemClock:
    """The wall clock: deadlines have to survive a restart, so a monotonic clock would not do."""

    def now(self) -> datetime:
        return datetime.now(timezone.utc)
