"""The clock of a process. All deadlines are computed from it, so that tests can use a virtual clock."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Protocol


class Clock(Protocol):
    """A source of the time in UTC."""

    def now(self) -> datetime: ...


class SystemClock:
    """The wall clock. A monotonic clock is not sufficient, because deadlines have to survive a restart."""

    def now(self) -> datetime:
        return datetime.now(timezone.utc)
