"""Part of step 5: whose turn it is, when to try again, and whether the platform is to be left alone for a while.

Pure: functions and values of jobs and times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from attrs import define, field, frozen

from dicom_adapter.config.model import SubmitterConfig
from dicom_adapter.ledger.jobs import RANKS, JobRow

TURNS_TO_THE_OLDEST = 8  # one turn in so many goes to the oldest job, whatever its priority: nobody starves
MOST_DOUBLINGS = 20  # of a pause: beyond a million days, which `timedelta` can still hold
FAILURES_TO_OPEN = 3  # jobs that fail in a row, for a reason that may pass: then the platform is taken to be down


def choose(candidates: Iterable[JobRow], served: Mapping[str, int], turn: int) -> JobRow | None:
    """The most urgent job; among equals, one of the AE title that was served longest ago; of that, the oldest.

    Every so often the oldest job of all, so that a flow of urgent ones leaves something to the others. `served` maps
    an AE title to the number of the turn in which it was served last.
    """
    if turn % TURNS_TO_THE_OLDEST == TURNS_TO_THE_OLDEST - 1:
        return min(candidates, key=lambda row: row.number, default=None)
    return min(
        candidates,
        key=lambda row: (RANKS[row.job.priority], served.get(row.job.ae_title, -1), row.number),
        default=None,
    )


@frozen(kw_only=True)
class Retries:
    """When a retriable step is tried again: pauses double from `first` to `most`, for `lasting` in all."""

    first: timedelta
    most: timedelta
    lasting: timedelta

    @classmethod
    def of(cls, config: SubmitterConfig) -> Retries:
        return cls(
            first=timedelta(seconds=config.retry_first),
            most=timedelta(seconds=config.retry_most),
            lasting=timedelta(seconds=config.retry_for),
        )

    def next_attempt(self, attempts: int, since: datetime, now: datetime, jitter: float) -> datetime | None:
        """The time of the next try after `attempts` failures that began at `since`; None: no more.

        `jitter`, 0 to 1, takes up to half of the pause away, so that jobs that failed together do not return together.
        """
        return None if now - since >= self.lasting else now + self.pause(attempts, jitter)

    def pause(self, attempts: int, jitter: float) -> timedelta:
        """How long to wait after `attempts` failures."""
        pause: timedelta = min(self.most, self.first * 2 ** min(attempts - 1, MOST_DOUBLINGS))
        return pause * (1 - jitter / 2)


@define
class Breaker:
    """Keeps jobs from storming a platform that is down: one tries, the others wait."""

    failures: int = 0  # retriable ones in a row, of whatever job
    closed_until: datetime | None = field(default=None)  # None: the platform is in use
    failed: set[int] = field(factory=set)  # the jobs that these were of: one alone may fail for a reason of its own
    tried: set[int] = field(factory=set)  # the jobs that have tried since the platform is down

    @property
    def is_down(self) -> bool:
        """Whether the platform is taken to be down: then one job at a time may try, from `closed_until` on."""
        return self.closed_until is not None

    def may_try(self, now: datetime, trying: int) -> bool:
        """Whether one more may try while the platform is down; `trying` are at it."""
        return trying == 0 and (self.closed_until is None or self.closed_until <= now)

    def step_failed(self, job: int, now: datetime, pause: timedelta) -> None:
        """A step of a job failed for a reason that may pass; `pause`: how long to wait if the platform is down."""
        self.failures += 1
        self.failed.add(job)
        if self.is_down or len(self.failed) >= FAILURES_TO_OPEN:
            self.closed_until = now + pause

    def told_nothing(self, now: datetime, pause: timedelta) -> None:
        """The step of the one that tried says nothing of the platform: another tries after the pause."""
        if self.is_down:
            self.closed_until = now + pause

    def succeeded(self) -> bool:
        """A step succeeded; returns whether the platform was taken to be down until now."""
        was_down = self.is_down
        self.failures, self.closed_until = 0, None
        self.failed.clear()
        self.tried.clear()
        return was_down
