"""Step 5 (`submit`) of the flow: choose the next job, compute retries, and limit running jobs.

A circuit breaker limits the calls of a platform that is not available. Nothing in this module has access to the ledger
or the platform.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from attrs import define, field, frozen

from dicom_adapter.config.model import SubmitterConfig
from dicom_adapter.ledger.begun_jobs import BegunJob, HeldBack
from dicom_adapter.ledger.jobs import RANKS, JobRow
from dicom_adapter.runtime.peer_health import PROBE_EVERY, PeerHealth

OLDEST_EVERY = 8  # every 8th choice is the oldest job of any priority, so that no job waits forever
FAILURES_TO_OPEN = 3  # number of jobs that fail consecutively, after which one job at a time calls the platform
MAX_DOUBLINGS = 20  # maximum number of doublings of a pause: more would exceed the range of `timedelta`


def choose(candidates: Iterable[JobRow], served: Mapping[str, int], number: int) -> JobRow | None:
    """Return the most urgent job; if several are equally urgent, the oldest of the AE title served longest ago.

    In one of OLDEST_EVERY choices, return the oldest of all jobs, so that urgent jobs do not block the other jobs.
    `number` is the number of this choice. `served` maps each AE title to the number of the last choice of one of its
    jobs.
    """
    if number % OLDEST_EVERY == OLDEST_EVERY - 1:
        return min(candidates, key=lambda row: row.number, default=None)
    return min(
        candidates,
        key=lambda row: (RANKS[row.job.priority], served.get(row.job.ae_title, -1), row.number),
        default=None,
    )


def hold_back(
    begun: Collection[BegunJob], starting: Collection[int], creating: Sequence[int], max_running: int, parallel: int
) -> HeldBack | None:
    """Return which jobs have to wait because `max_running` jobs run already; None if another job may be started.

    No further job is started. Jobs are prepared, so that they can be started at once, but not more than `parallel` of
    the same or a more urgent priority. `starting`: the numbers of the jobs whose `start` is being called; `creating`:
    the ranks of the jobs whose `create_job` is being called.
    """
    are_running = {job.number for job in begun if job.is_running} | set(starting)
    if len(are_running) < max_running:
        return None
    prepared = sorted([*creating, *(job.rank for job in begun if job.number not in are_running)])
    first_rank = prepared[parallel - 1] if len(prepared) >= parallel else None
    return HeldBack(may_start=frozenset(are_running), first_rank=first_rank)


@frozen(kw_only=True)
class Retries:
    """The retries of a failed step: pauses double from `first` to `longest`, and retries end after `total`."""

    first: timedelta
    longest: timedelta
    total: timedelta

    @classmethod
    def of(cls, config: SubmitterConfig) -> Retries:
        return cls(
            first=timedelta(seconds=config.retry_first),
            longest=timedelta(seconds=config.retry_most),
            total=timedelta(seconds=config.retry_for),
        )

    def next_attempt(self, attempts: int, since: datetime, now: datetime, jitter: float) -> datetime | None:
        """Return the time of the next attempt after `attempts` failures that began at `since`; None: no more attempts.

        `jitter`, 0 to 1, shortens the pause by up to half, so that jobs that failed together are not retried together.
        """
        return None if now - since >= self.total else now + self.pause(attempts, jitter)

    def pause(self, attempts: int, jitter: float) -> timedelta:
        """Return the pause after `attempts` failures."""
        pause: timedelta = min(self.longest, self.first * 2 ** min(attempts - 1, MAX_DOUBLINGS))
        return pause * (1 - jitter / 2)


@define
class Breaker:
    """Circuit breaker: while it is open, only one job at a time calls the platform. Not thread-safe."""

    health: PeerHealth = field(factory=PeerHealth)  # of the platform
    open_until: datetime | None = field(default=None)  # time of the next call; None: the breaker is closed
    failed: set[int] = field(factory=set)  # the jobs that failed: the cause may be one job, not the platform
    tried: set[int] = field(factory=set)  # the jobs that have called the platform since the breaker was opened

    @property
    def is_open(self) -> bool:
        """Return whether only one job at a time may call the platform, from `open_until` on."""
        return self.open_until is not None

    def may_try(self, now: datetime, trying: int) -> bool:
        """Return whether another job may call a platform that is down. `trying` is the number of jobs that call now."""
        return trying == 0 and (self.open_until is None or self.open_until <= now)

    def step_failed(self, job: int, now: datetime, pause: timedelta, error: str) -> None:
        """Record a retriable failure of a step. If the breaker is open, the next call is after `pause`."""
        self.health.failed(now, error)
        self.failed.add(job)
        if self.is_open or len(self.failed) >= FAILURES_TO_OPEN:
            self.open_until = now + min(pause, PROBE_EVERY)

    def inconclusive(self, now: datetime, pause: timedelta) -> None:
        """Record a step whose result does not depend on the platform: another job may try after the pause."""
        if self.is_open:
            self.open_until = now + min(pause, PROBE_EVERY)

    def succeeded(self) -> bool:
        """Record a successful step, or that no job waits. Return whether the platform was down before."""
        was_down, was_open = self.health.succeeded(), self.is_open
        self.open_until = None
        self.failed.clear()
        self.tried.clear()
        return was_down or was_open
