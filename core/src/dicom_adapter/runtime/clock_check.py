"""Check the system clock for steps: log each step, and report the difference to the service's clock as a finding."""

from __future__ import annotations

from datetime import timedelta

import structlog

from dicom_adapter.ledger.health import PartState
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.watch import PartFinding

log = structlog.get_logger("dicom_adapter.watch")

SMALLEST_STEP = timedelta(seconds=1)  # smaller differences are corrected within ten seconds


class ClockCheck:
    """Comparison of the clock of the service with the system clock. Not thread-safe: used by the watch only."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._offset = clock.system_offset()  # the offset at the last call of `examine`

    def examine(self) -> PartFinding:
        """Log a step since the last call. Return the finding: degraded while the clocks differ."""
        before, self._offset = self._offset, self._clock.system_offset()
        step, ahead = self._offset - before, self._clock.ahead()
        if abs(step) >= SMALLEST_STEP:
            log.warning("clock_stepped", seconds=round(step.total_seconds(), 3))
        if abs(ahead) < SMALLEST_STEP:
            return PartFinding()
        return PartFinding(state=PartState.DEGRADED, reason=_reason(ahead))


def _reason(ahead: timedelta) -> str:
    seconds = round(abs(ahead).total_seconds())
    put, relation, runs = ("back", "ahead of", "slower") if ahead > timedelta(0) else ("forward", "behind", "faster")
    return (
        f"the system clock was put {put}: the clock of the service is {seconds} s {relation} it, and runs a tenth "
        f"{runs} until they agree; no wait was changed. Restart the service to use the system time at once"
    )
