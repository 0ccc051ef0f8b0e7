"""The clock of a service. All deadlines are computed from it, so that tests can use a virtual clock.

The system clock may be set at any time, for example by NTP or by an operator. A deadline must not come an hour late, or
an hour early, because of that. So the clock of a service follows the monotonic clock. When both differ after a step of
the system clock, the clock of the service runs a tenth slower or faster until they agree again. All processes of a
service use the same clock: the monotonic clock is that of the machine, and the supervisor sends a reading to each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
SLEW_DIVISOR = 10  # a difference to the system clock shrinks by a tenth of the elapsed time
READING_TRIES = 3  # to read both clocks without an interruption in between
PRECISE_NS = 1_000_000  # a longer interruption makes a reading useless


class Clock(Protocol):
    """A source of the time in UTC."""

    def now(self) -> datetime:
        """Return the time for deadlines and records. It does not follow steps of the system clock."""

    def system_time(self) -> datetime:
        """Return the time of the system clock, to compare with the times of other programs."""


class SystemClock:
    """A clock that follows the monotonic clock, and approaches the system clock after a step. Thread-safe."""

    def __init__(
        self,
        reading: Sequence[int] | None = None,
        system_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`reading`: of the clock to continue, in another process of this machine; None: start at the system time."""
        self._system_ns = system_ns
        self._monotonic_ns = monotonic_ns
        self._lock = threading.Lock()
        self._time, self._read_at = self._read() if reading is None else reading  # nanoseconds

    def now(self) -> datetime:
        return _datetime(self.reading()[0])

    def system_time(self) -> datetime:
        return _datetime(self._system_ns())

    def reading(self) -> tuple[int, int]:
        """Return the time of this clock and that of the monotonic clock, in nanoseconds."""
        with self._lock:
            self._advance()
            return self._time, self._read_at

    def ahead(self) -> timedelta:
        """Return the difference to the system clock: positive if that was put back, negative if it was put forward."""
        with self._lock:
            return timedelta(microseconds=-self._advance() / 1000)

    def system_offset(self) -> timedelta:
        """Return the system time minus the monotonic time. Only a step changes it."""
        system, monotonic = self._read()
        return timedelta(microseconds=(system - monotonic) / 1000)

    def _advance(self) -> int:
        """Advance to the present. Return the remaining difference of the system clock, in nanoseconds."""
        system, monotonic = self._read()
        elapsed = max(0, monotonic - self._read_at)
        difference = system - (self._time + elapsed)
        limit = elapsed // SLEW_DIVISOR
        correction = max(-limit, min(limit, difference))
        self._time += elapsed + correction
        self._read_at += elapsed
        return difference - correction

    def _read(self) -> tuple[int, int]:
        for _try in range(READING_TRIES):
            before, system = self._monotonic_ns(), self._system_ns()
            if self._monotonic_ns() - before < PRECISE_NS:
                break
        return system, before


def _datetime(nanoseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=nanoseconds // 1000)
