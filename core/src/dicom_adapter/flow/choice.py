"""Part of step 5: whose turn it is, and whether the platform is to be left alone for a while.

Pure: functions and values of jobs and times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from attrs import define, field

from dicom_adapter.ledger.jobs import RANKS, JobRow

GRADE_UP_AFTER = timedelta(minutes=10)  # a job that waits so long counts as one grade more urgent: nobody starves
FAILURES_TO_OPEN = 3  # retriable failures in a row after which the platform is taken to be down


def choose(candidates: Iterable[JobRow], served: Mapping[str, int], now: datetime) -> JobRow | None:
    """The most urgent job; among equals, one of the AE title that was served longest ago; of that, the oldest.

    `served` maps an AE title to the number of the turn in which it was served last.
    """
    return min(
        candidates, key=lambda row: (_grade(row, now), served.get(row.job.ae_title, -1), row.number), default=None
    )


def _grade(row: JobRow, now: datetime) -> int:
    waited = max(timedelta(0), now - row.job.created_at) // GRADE_UP_AFTER
    return max(0, RANKS[row.job.priority] - waited)


@define
class Breaker:
    """Keeps jobs from storming a platform that is down: one tries, the others wait."""

    failures: int = 0  # retriable ones in a row, of whatever job
    closed_until: datetime | None = field(default=None)  # None: the platform is in use

    @property
    def is_down(self) -> bool:
        """Whether the platform is taken to be down: then one job at a time may try, from `closed_until` on."""
        return self.closed_until is not None

    def failed(self, now: datetime, pause: timedelta) -> None:
        """A step failed for a reason that may pass; `pause`: how long to wait if that makes the platform down."""
        self.failures += 1
        if self.failures >= FAILURES_TO_OPEN:
            self.closed_until = now + pause

    def succeeded(self) -> bool:
        """A step succeeded; returns whether the platform was taken to be down until now."""
        was_down = self.is_down
        self.failures, self.closed_until = 0, None
        return was_down
