"""Part of step 5: which job is next, when to retry, and when to stop calling a platform (circuit breaker).

Pure functions and values of jobs and times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from attrs import define, field, frozen

from dicom_adapter.config.model import SubmitterConfig
from dicom_adapter.ledger.jobs import RANKS, JobRow

TURNS_TO_THE_OLDEST = 8  # every 8th turn goes to the oldest job, whatever its priority, so that no job starves
MOST_DOUBLINGS = 20  # of a pause: beyond a million days, which `timedelta` can still hold
FAILURES_TO_OPEN = 3  # jobs that fail in a row with a retriable error: then the platform is considered down


def choose(candidates: Iterable[JobRow], served: Mapping[str, int], turn: int) -> JobRow | None:
    """Return the most urgent job; among equals, the oldest of the AE title that was served longest ago.

    In one of TURNS_TO_THE_OLDEST turns return the oldest job of all, so that urgent jobs do not block the others.
    `served` maps an AE title to the number of the turn in which it was served last.
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
    """When a failed step is retried: pauses double from `first` to `most`; after `lasting` in total it is not."""

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
        """Return the time of the next attempt after `attempts` failures that began at `since`; None: no more attempts.

        `jitter`, 0 to 1, shortens the pause by up to half, so that jobs that failed together are not retried together.
        """
        return None if now - since >= self.lasting else now + self.pause(attempts, jitter)

    def pause(self, attempts: int, jitter: float) -> timedelta:
        """Return how long to wait after `attempts` failures."""
        pause: timedelta = min(self.most, self.first * 2 ** min(attempts - 1, MOST_DOUBLINGS))
        return pause * (1 - jitter / 2)


@define
class Breaker:
    """Circuit breaker: while a platform is down, one job at a time tries, and the others wait. Not thread-safe."""

    failures: int = 0  # consecutive retriable failures, of any job
    closed_until: datetime | None = field(default=None)  # None: the platform is in use
    failed: set[int] = field(factory=set)  # the jobs that failed: a single job may fail for a reason of its own
    tried: set[int] = field(factory=set)  # the jobs that have tried since the platform went down

    @property
    def is_down(self) -> bool:
        """Return whether the platform is considered down: then one job at a time may try, from `closed_until` on."""
        return self.closed_until is not None

    def may_try(self, now: datetime, trying: int) -> bool:
        """Return whether another job may try while the platform is down; `trying`: the number of jobs that try now."""
        return trying == 0 and (self.closed_until is None or self.closed_until <= now)

    def step_failed(self, job: int, now: datetime, pause: timedelta) -> None:
        """Record a retriable failure of a job's step; `pause`: how long to wait if the platform is down."""
        self.failures += 1
        self.failed.add(job)
        if self.is_down or len(self.failed) >= FAILURES_TO_OPEN:
            self.closed_until = now + pause

    def inconclusive(self, now: datetime, pause: timedelta) -> None:
        """Record a step that shows nothing about the platform: another job tries after the pause."""
        if self.is_down:
            self.closed_until = now + pause

    def succeeded(self) -> bool:
        """Record a successful step; return whether the platform was considered down until now."""
        was_down = self.is_down
        self.failures, self.closed_until = 0, None
        self.failed.clear()
        self.tried.clear()
        return was_down
