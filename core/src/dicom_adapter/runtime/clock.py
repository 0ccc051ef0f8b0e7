"""The clock of a service. All deadlines are computed from it, so that tests can use a virtual clock.

The system clock may be set at any time, for example by NTP or by an operator. A step of an hour must not move a
deadline by an hour. So the clock of a service follows the monotonic clock. After a step of the system clock, the clock
of the service runs 10 % slower or faster until it agrees with the system clock again. All processes of a service use
the same clock: the monotonic clock is the same in all processes of a machine, and the supervisor sends a reading of its
clock to each process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Protocol

from attrs import frozen

SLEW_DIVISOR = 10  # a difference to the system clock shrinks by a tenth of the elapsed time
READING_TRIES = 3  # maximum number of attempts to read both clocks without an interruption in between
PRECISE_NS = 1_000_000  # a longer interruption makes a reading useless
AGREEMENT_NS = 100_000  # clocks with a smaller difference agree: two clocks cannot be read at the same moment
COMPARE_AFTER_NS = 10_000_000  # clocks that agree are compared again only after this time, to save time


class Clock(Protocol):
    """A source of the time in UTC."""

    def now(self) -> datetime:
        """Return the time for deadlines and records. It does not follow steps of the system clock."""

    def system_time(self) -> datetime:
        """Return the time of the system clock, to compare with the times of other programs."""


@frozen
class _State:
    """The state of a clock at its last comparison with the system clock."""

    time_ns: int  # time of this clock
    monotonic_ns: int  # time of the monotonic clock at the same moment
    agrees: bool  # True if this clock agrees with the system clock


class SystemClock:
    """A clock that follows the monotonic clock, and approaches the system clock after a step. Thread-safe."""

    def __init__(
        self,
        reading: Sequence[int] | None = None,
        system_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`reading`: the result of `reading()` of another process's clock, which this clock continues.

        None: start at the system time.
        """
        self._system_ns = system_ns
        self._monotonic_ns = monotonic_ns
        self._lock = threading.Lock()
        system, monotonic = self._read()
        time_ns, monotonic_ns_then = reading or (system, monotonic)
        agrees = time_ns - monotonic_ns_then == system - monotonic
        self._state = _State(time_ns, monotonic_ns_then, agrees)

    def now(self) -> datetime:
        state = self._state
        elapsed = self._monotonic_ns() - state.monotonic_ns
        if state.agrees and 0 <= elapsed < COMPARE_AFTER_NS:
            return datetime.fromtimestamp((state.time_ns + elapsed) / 1e9, timezone.utc)
        return datetime.fromtimestamp(self.reading()[0] / 1e9, timezone.utc)

    def system_time(self) -> datetime:
        return datetime.fromtimestamp(self._system_ns() / 1e9, timezone.utc)

    def reading(self) -> tuple[int, int]:
        """Return the time of this clock and the time of the monotonic clock, in nanoseconds."""
        with self._lock:
            self._compare()
            return self._state.time_ns, self._state.monotonic_ns

    def ahead(self) -> timedelta:
        """Return the time of this clock minus the system time: positive after the system clock was put back."""
        with self._lock:
            return timedelta(microseconds=-self._compare() / 1000)

    def system_offset(self) -> timedelta:
        """Return the system time minus the monotonic time. Only a step changes it."""
        system, monotonic = self._read()
        return timedelta(microseconds=(system - monotonic) / 1000)

    def _compare(self) -> int:
        """Advance to the present, and approach the system clock. Return the remaining difference in nanoseconds."""
        state = self._state
        system, monotonic = self._read()
        elapsed = max(0, monotonic - state.monotonic_ns)
        difference = system - (state.time_ns + elapsed)
        # While the clocks agree, `now` returns times without a comparison. Later times must not be earlier than these.
        limit = max(0, elapsed - (COMPARE_AFTER_NS if state.agrees else 0)) // SLEW_DIVISOR
        correction = max(-limit, min(limit, difference))
        left = difference - correction
        self._state = _State(
            state.time_ns + elapsed + correction, state.monotonic_ns + elapsed, abs(left) <= AGREEMENT_NS
        )
        return left

    def _read(self) -> tuple[int, int]:
        for _try in range(READING_TRIES):
            before, system = self._monotonic_ns(), self._system_ns()
            if self._monotonic_ns() - before < PRECISE_NS:
                break
        return system, before
