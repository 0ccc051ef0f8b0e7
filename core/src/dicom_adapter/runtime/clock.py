"""The host's clock. Everything that waits asks it, so that tests can replace it by a virtual one."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Protocol


class Clock(Protocol):
    """Tells the time in UTC."""

    def now(self) -> datetime: ...


class SystemClock:
    """The wall clock: deadlines have to survive a restart, so a monotonic clock would not do."""

    def now(self) -> datetime:
        return datetime.now(timezone.utc)
